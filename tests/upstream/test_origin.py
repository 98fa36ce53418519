from __future__ import annotations

import ssl

import pytest

from proxy.core.values import Bad
from proxy.upstream import Origin, tls_context


@pytest.mark.parametrize(
    ("text", "origin", "host_header"),
    [
        (
            "https://sandbox-api.cardcash.com",
            Origin("https", "sandbox-api.cardcash.com", 443),
            b"sandbox-api.cardcash.com",
        ),
        ("https://a.example/", Origin("https", "a.example", 443), b"a.example"),
        ("HTTPS://A.Example:443", Origin("https", "a.example", 443), b"a.example"),
        ("http://127.0.0.1:9000", Origin("http", "127.0.0.1", 9000), b"127.0.0.1:9000"),
        ("http://[::1]:9000", Origin("http", "::1", 9000), b"[::1]:9000"),
        ("http://[::1]", Origin("http", "::1", 80), b"[::1]"),
        ("http://simulator_1:80", Origin("http", "simulator_1", 80), b"simulator_1"),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, origin: Origin, host_header: bytes) -> None:
    assert Origin.parse(text) == origin
    assert origin.host_header == host_header
    assert Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "ftp://a", "http:a", "http://", "http:///x", "http://a/v3", "http://a//", "http://a?x",
        "http://a/?", "http://a#f", "http://user:secret@a", "http://a@b", "http://a:0", "http://a:65536",
        "http://a:", "http://a:x", "http://a:+1", "http://[::1", "http://[v1.x]", "http://[::1]x:1", "http://a b",
        "http://a\r\nX: y", "http://ä.example", "http://-a", "http://a..b", "http://::1", "http://[a]:1",
        "http://a\\b", " http://a", "http://[fe80::1%25eth0]",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(Bad, match=r"\A[^\n]+; write scheme://host\[:port\][^\n]*\Z") as caught:
        Origin.parse(text)
    assert "secret" not in str(caught.value)


def test_the_tls_context_verifies_names_by_subject_alt_name_only() -> None:
    context = tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
