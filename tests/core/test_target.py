"""Request targets (RFC 9112, 3.2) and hosts (RFC 3986, 3.2.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest
from proxy.core.target import METHODS, Target, host_in, parse_target, query_keys


def parsed(target: str, method: str = "GET") -> Target:
    return parse_target(method, target)


def test_the_registered_methods_of_applications_are_all_there() -> None:
    assert len(METHODS) == 38
    assert {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "PROPFIND"} <= METHODS


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "//evil.com/x",
        "/a b".replace(" ", "%20"),
        "/?",
        "/??a",
        "/a/../b",
        "/%zz",
        "/a%2Fb",
        "/:80",
        "/@",
        '/[x]{y}|\\^`"<>',
        "/http://x/",
        "/*",
    ],
)
def test_origin_form_is_kept_byte_for_byte(target: str) -> None:
    assert parsed(target) == Target(target, None)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=50))
def test_no_visible_byte_of_origin_form_is_changed(rest: str) -> None:
    target = parsed("/" + rest)
    assert target.text == "/" + rest
    assert target.authority is None


@pytest.mark.parametrize(
    ("target", "text", "authority"),
    [
        ("http://localhost:8080/a?b", "/a?b", "localhost:8080"),
        ("HTTPS://LocalHost/A", "/A", "LocalHost"),
        ("http://localhost", "/", "localhost"),
        ("http://localhost?a=b", "/?a=b", "localhost"),
        ("http://[::1]:80/x", "/x", "[::1]:80"),
        ("http://localhost//x", "//x", "localhost"),
        ("http://localhost/http://other/", "/http://other/", "localhost"),
        ("http://evil.com\\/x", "/x", "evil.com\\"),
        ("http://localhost/a@b", "/a@b", "localhost"),
        ("http://localhost?@b", "/?@b", "localhost"),
    ],
)
def test_absolute_form_is_split_into_authority_and_origin_form(target: str, text: str, authority: str) -> None:
    assert parsed(target) == Target(text, authority)


def test_options_asterisk_is_kept_and_only_for_options() -> None:
    assert parsed("*", "OPTIONS") == Target("*")
    for method in sorted(METHODS - {"OPTIONS"}):
        with pytest.raises(BadRequest):
            parsed("*", method)


def test_options_of_an_authority_without_path_is_asterisk() -> None:
    assert parsed("http://localhost:8080", "OPTIONS") == Target("*", "localhost:8080")
    assert parsed("http://localhost:8080/", "OPTIONS") == Target("/", "localhost:8080")
    assert parsed("http://localhost?a", "OPTIONS") == Target("/?a", "localhost")


@pytest.mark.parametrize(
    "target",
    ["", "#", "/#", "/a#b", "/?a#b", "http://localhost/#a", "http://localhost#a", "*#"],
)
def test_a_fragment_and_nothing_are_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        parsed(target, "OPTIONS")


@pytest.mark.parametrize(
    "target",
    [
        "a",
        "a/b",
        "?a",
        "*a",
        "**",
        "*?a",
        "localhost:80",
        "http:",
        "http:/",
        "http://",
        "http:///x",
        "http://?a",
        "http:localhost/",
        "ftp://localhost/",
        "ws://localhost/",
        "file:///etc",
        "httpx://a/",
        "\\",
        "http://user@localhost/",
        "http://user:pw@localhost/",
        "http://@localhost/",
        "http://localhost@/",
    ],
)
def test_authority_form_userinfo_and_other_schemes_are_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        parsed(target, "OPTIONS")


@pytest.mark.parametrize("character", [" ", "\t", "\r", "\n", "\0", "\x0b", "\x7f", "\x80", "é", "\udce9", "\u2028"])
def test_a_character_that_may_not_stand_in_a_target_is_refused(character: str) -> None:
    for target in (f"/a{character}", f"/{character}b", f"http://localhost/{character}", f"{character}/"):
        with pytest.raises(BadRequest):
            parsed(target)


# Hosts


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:8080", "localhost"),
        ("localhost:", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1:65535", "127.0.0.1"),
        ("a_b-c.example", "a_b-c.example"),
        ("[::1]", "::1"),
        ("[::1]:80", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2001:DB8::A]:443", "2001:db8::a"),
    ],
)
def test_a_host_is_read_without_port_case_and_brackets(authority: str, name: str) -> None:
    assert host_in(authority) == name


@pytest.mark.parametrize(
    "authority",
    [
        "",
        ":80",
        "a b",
        "a:b",
        "a:80:80",
        "a:65536",
        "a:99999",
        "a:-1",
        "a:+1",
        "a: 80",
        "a:８０",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "user@a",
        "[::1",
        "::1",
        "[::1]x",
        "[]",
        "[127.0.0.1]",
        "[::g]",
        "[::1%25eth0]",
        "[1:2:3]",
        "localhost..",
        ".",
        "..",
        ".svc.local",
        "a..b:80",
        "a\n",
        "a\r\nX: y",
        "é",
        "a\0",
    ],
)
def test_a_host_that_is_not_valid_is_refused(authority: str) -> None:
    with pytest.raises(BadRequest):
        host_in(authority)


@given(st.text(max_size=30))
def test_a_host_is_valid_or_refused_and_nothing_else(authority: str) -> None:
    try:
        name = host_in(authority)
    except BadRequest:
        return
    assert name == name.lower() != ""
    assert not set(name) & set("/\\@?#[] \t\r\n")


@pytest.mark.parametrize("host", ["a%zz", "a%4", "%"])
def test_a_host_that_is_none_by_its_syntax_is_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        host_in(host)


def test_a_host_may_be_percent_encoded_and_stays_as_it_is() -> None:
    assert host_in("a%2Db") == "a%2db"


# What may be logged of a query


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("a=1&b_2=x=y", ("a", "b_2")),
        ("cards[0][id]=5&x.y-z=", ("cards[0][id]", "x.y-z")),
        ("secret-without-a-key", ("?",)),
        ("a=1&&b=2", ("a", "?", "b")),
        ("5=1", ("?",)),
        ("card4111111111111111=1", ("?",)),
        ("a%5B=1", ("?",)),
        ("x" * 40 + "=1", ("x" * 40,)),
        ("x" * 41 + "=1", ("?",)),
        ("=value", ("?",)),
    ],
)
def test_of_a_query_only_keys_that_look_like_names_may_be_logged(query: str, keys: tuple[str, ...]) -> None:
    assert query_keys(query) == keys


def test_of_a_long_query_the_first_sixteen_keys_may_be_logged() -> None:
    assert query_keys("&".join(f"k{chr(97 + n)}=1" for n in range(20))) == tuple(f"k{chr(97 + n)}" for n in range(16))
