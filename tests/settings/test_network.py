"""Origins, hosts, networks and listen addresses: canonical, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.values import Bad
from proxy.settings import parsing

if TYPE_CHECKING:
    from tests.settings.conftest import Faults, Load


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://sandbox-api.cardcash.com", "https://sandbox-api.cardcash.com"),
        ("HTTPS://API.Example.COM:443/", "https://api.example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://[0:0::1]", "https://[::1]"),
        ("https://host.", "https://host"),
    ],
)
def test_origins(text: str, canonical: str) -> None:
    assert parsing.origin(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:443",
        "ftp://host",
        "https://",
        "https:///path",
        "https://host/path",
        "https://host//",
        "https://host?x",
        "https://host#x",
        "https://host:0",
        "https://host:99999",
        "https://host:x",
        "https://host:",
        "https://ho st",
        "https://hüst",
        "https://-host",
        "https://[::1",
        "https://[::1]x",
        "https://[fe80::1%25eth0]",
        "https://host\\path",
        "https://127.1",
        "https://a,b",
    ],
)
def test_origins_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.origin(text)


def test_an_origin_with_credentials_is_refused_without_repeating_them() -> None:
    with pytest.raises(Bad, match="user name or password") as caught:
        parsing.origin("https://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "plain"),
    [
        ("http://localhost:1", False),
        ("http://127.3.2.1", False),
        ("http://[::1]", False),
        ("https://10.0.0.1", False),
        ("http://10.0.0.1", True),
        ("http://localhost.example.com", True),
        ("http://host", True),
    ],
)
def test_plain_http_goes_to_this_machine_only(load: Load, faults: Faults, origin: str, plain: bool) -> None:
    if plain:
        assert faults(UPSTREAM__ORIGIN=origin)[0].startswith("upstream.origin (")
    else:
        assert load(UPSTREAM__ORIGIN=origin).upstream.origin == origin


def test_the_same_address_twice_is_refused() -> None:
    with pytest.raises(Bad, match="listed twice"):
        parsing.listen_addresses("127.0.0.1:80,localhost:81,127.0.0.1:80")


def test_any_free_port_may_be_asked_for_twice() -> None:
    assert len(parsing.listen_addresses("127.0.0.1:0,127.0.0.1:0")) == 2


def test_no_address_is_refused() -> None:
    with pytest.raises(Bad, match="at least one"):
        parsing.listen_addresses("")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com.", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[0::1]:80", "::1"),
        ("my_service", "my_service"),
    ],
)
def test_allowed_hosts(text: str, host: str) -> None:
    assert parsing.allowed_host(text) == host


@pytest.mark.parametrize("text", ["", "*", "*.", "a.*", "http://a", "a/b", "a b", "*.10.0.0.1", "a:99999", "..", "ü"])
def test_allowed_hosts_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.allowed_host(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Shop.example.com", "https://shop.example.com"),
        ("https://shop:443", "https://shop"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("null", "null"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_allowed_origins(text: str, origin: str) -> None:
    assert parsing.browser_origin(text) == origin


@pytest.mark.parametrize("text", ["*", "", "shop.example.com", "https://a/b", "https://*.example.com", "https://u@h"])
def test_allowed_origins_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.browser_origin(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), ("::1", "::1/128")],
)
def test_networks(text: str, shown: str) -> None:
    assert str(parsing.network(text)) == shown


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "host", "10.0.0.", "10.0.0.0/8/8", "1234"])
def test_networks_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.network(text)


@settings(deadline=None)
@given(st.text())
def test_parsers_refuse_any_text_with_bad_only(text: str) -> None:
    for name in ("origin", "listen_address", "allowed_host", "browser_origin", "network"):
        try:
            getattr(parsing, name)(text)
        except Bad as bad:
            assert str(bad)
