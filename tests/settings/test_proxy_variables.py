"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY."""

from __future__ import annotations

import pytest

from proxy.core.values import Bad
from proxy.settings import SettingsError, load_settings
from proxy.settings.proxy_variables import proxy_variables


@pytest.mark.parametrize(
    ("origin", "environ", "expected"),
    [
        ("https://a.example", {}, None),
        ("https://a.example", {"HTTPS_PROXY": ""}, None),
        ("https://a.example", {"HTTPS_PROXY": "http://p:3128"}, ("p", 3128)),
        ("https://a.example", {"HTTPS_PROXY": "HTTP://P:3128/"}, ("p", 3128)),
        ("https://a.example", {"HTTPS_PROXY": "http://[fd00::1]:3128"}, ("fd00::1", 3128)),
        ("https://a.example", {"HTTPS_PROXY": "p:3128", "https_proxy": "http://q"}, ("q", 80)),
        ("http://a.example", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("http://a.example", {"HTTP_PROXY": "http://p:3128"}, ("p", 3128)),
        ("http://a.example", {"HTTP_PROXY": "http://p:3128", "REQUEST_METHOD": "GET"}, None),
        ("http://a.example", {"http_proxy": "http://p:3128", "REQUEST_METHOD": "GET"}, ("p", 3128)),
        ("https://a.example", {"HTTPS_PROXY": "http://p", "NO_PROXY": "b, .example"}, None),
        ("https://a.example", {"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ("https://a.example", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a.example:444"}, ("p", 80)),
        ("https://a.example", {"HTTPS_PROXY": "http://p", "no_proxy": "a.example:443"}, None),
        ("https://a.example", {"HTTPS_PROXY": "http://p", "NO_PROXY": "xa.example,le"}, ("p", 80)),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://[::1]", {"HTTPS_PROXY": "http://p", "NO_PROXY": "::1"}, None),
        ("https://[::1]", {"HTTPS_PROXY": "http://p", "NO_PROXY": "[::1]:443"}, None),
    ],
)
def test_the_environment_chooses_the_proxy(
    origin: str, environ: dict[str, str], expected: tuple[str, int] | None
) -> None:
    found = proxy_variables(origin, environ)
    assert (found and (found.host, found.port)) == expected


MALFORMED = [
    "http://user:word@p:99999",
    "http://user:word@p:0",
    "http://user:word@p:x",
    "socks5://user:word@p:1",
    "https://user:word@p:1",
    "http://user:word@",
    "http://user:word@:3128",
    "http://",
    "://",
    "http://user:word@p:1/path",
    "http://user:word@p:1?query",
    "http://us/er:word@p:1",
    "http://user:word@p q:1",
    "http://user:word@[::1",
    "nonsense with blanks",
]


def test_credentials_of_a_proxy_are_read_and_in_no_repr() -> None:
    found = proxy_variables("https://a", {"HTTPS_PROXY": "http://us%40er:pass:word@p:1"})
    assert found is not None
    assert found.authorization == b"Basic dXNAZXI6cGFzczp3b3Jk"
    assert "dXN" not in repr(found)
    only_a_name = proxy_variables("https://a", {"HTTPS_PROXY": "http://user@p:1"})
    assert only_a_name is not None
    assert only_a_name.authorization == b"Basic dXNlcjo="


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_proxy_is_a_fault_that_names_the_variable_and_not_its_value(value: str) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        with pytest.raises(Bad, match=rf"^{name} \(environment\) must look like") as caught:
            proxy_variables("https://a", {name: value})
        assert "word" not in str(caught.value).replace("password", "")


def test_it_is_told_with_the_other_faults_and_only_if_the_environment_is_trusted() -> None:
    environ = {
        "CARDCASH_APP_ID": "x",
        "CARDCASH_UPSTREAM__TRUST_ENV": "true",
        "CARDCASH_LISTEN": "nowhere",
        "HTTPS_PROXY": "socks5://user:word@p:1",
    }
    with pytest.raises(SettingsError) as caught:
        load_settings(environ=environ)
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["listen[0]", "HTTPS_PROXY"]
    assert load_settings(environ={"CARDCASH_APP_ID": "x", "HTTPS_PROXY": "socks5://p"}).upstream.trust_env is False
