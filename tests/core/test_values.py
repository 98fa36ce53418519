"""How people write durations, sizes, lists and addresses; what they got wrong is a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from proxy.core import values
from proxy.core.values import Bad, ListenAddress, Origin


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("30", 30), ("0.5", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("500ms", 0.5), ("300ms", 0.3)],
        *[("1.5h", 5400), ("2 m", 120), ("0", 0), ("1e3", 1000), ("1d", 86400), (7, 7), (1.5, 1.5)],
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "5 parsecs", "5M", "-1", "-5s", "nan", "inf", "1e999", "5m30s", "1h ago", "1:30", True, None, []],
)
def test_durations_refused(text: object) -> None:
    with pytest.raises(Bad):
        values.duration(text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0])
def test_odd_floats_are_no_durations(number: float) -> None:
    with pytest.raises(Bad):
        values.duration(number)


def test_duration_above_a_year_is_a_slip() -> None:
    with pytest.raises(Bad, match="longer than 366d"):
        values.duration("9000h")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("0", 0), ("512", 512), ("512KiB", 524288), ("10MiB", 10485760), ("1GiB", 2**30), ("1kB", 1000)],
        *[("2MB", 2_000_000), ("1.5 KiB", 1536), ("10mib", 10485760), ("64B", 64), (99, 99)],
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert values.size(text) == size


@pytest.mark.parametrize("text", ["", "big", "10M", "10 apples", "-1", "-1KiB", "nan", "1.5", "99999GiB", True])
def test_sizes_refused(text: object) -> None:
    with pytest.raises(Bad):
        values.size(text)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a, b,,c ", ["a", "b", "c"]),
        ('["a", "b,c"]', ["a", "b,c"]),
        ("[]", []),
        ("", []),
        ("[::1]:80,b", ["[::1]:80", "b"]),
        (["a"], ["a"]),
        ("[1, 2]", ["[1", "2]"]),
    ],
)
def test_lists_are_json_or_have_commas(value: object, found: list[str]) -> None:
    assert values.each_part(value) == found


def test_broken_json_is_named_as_such() -> None:
    with pytest.raises(Bad, match="is not valid JSON at line 1 column 6"):
        values.each_part('["a",')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:0", "localhost:0"),
        ("LocalHost:80", "localhost:80"),
        ("[::1]:8080", "[::1]:8080"),
        ("[0::]:1", "[::]:1"),
        ("0.0.0.0:65535", "0.0.0.0:65535"),
        ("unix:/run/proxy.sock", "unix:/run/proxy.sock"),
        ("unix:///run/proxy.sock", "unix:/run/proxy.sock"),
        ("fd:http", "fd:http"),
        ("fd:cardcash-proxy.socket", "fd:cardcash-proxy.socket"),
        ("fd:8080", "fd:8080"),
    ],
)
def test_listen_addresses(text: str, shown: str) -> None:
    address = values.listen_address(text)
    assert str(address) == shown
    assert values.listen_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *["", "8080", ":8080", "*:8080", "host", "host:", "host:x", "host:-1", "host:65536", "::1:8080", "[::1]"],
        *["http://h:1", "unix:", "unix:relative", "unix:/dir/", "unix:/" + "x" * 107, "a b:80", "127.0.0.1:８０"],
        *["fd:", "fd:a:b", "fd:a b", "fd:ä", "fd:" + "x" * 256],
    ],
)
def test_listen_addresses_refused(text: str) -> None:
    with pytest.raises(Bad):
        values.listen_address(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        *[("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True), ("unix:/x", True), ("fd:x", True)],
        *[("0.0.0.0:1", False), ("[::]:1", False), ("10.1.1.1:1", False), ("myhost:1", False)],
    ],
)
def test_loopback_addresses(text: str, loopback: bool) -> None:
    assert values.listen_address(text).loopback is loopback


def test_the_bounds_of_durations_sizes_and_socket_paths_are_good_themselves() -> None:
    assert values.duration("366d") == 366 * 86400
    assert values.size("1024GiB") == 1 << 40
    assert values.listen_address("unix:/" + "x" * 106).path == "/" + "x" * 106
    for parse, text in (
        (values.duration, "366.1d"),
        (values.size, "1025GiB"),
        (values.listen_address, "unix:/" + "x" * 107),
    ):
        with pytest.raises(Bad, match=r"longer than 366d|larger than 1024GiB|too long"):
            parse(text)


@pytest.mark.parametrize("milliseconds", [100, 300, 700, 1100, 2300])
def test_milliseconds_are_exact(milliseconds: int) -> None:
    assert values.duration(f"{milliseconds}ms") == milliseconds / 1000


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (values.duration, "soon", r'^"soon" is not a duration; write seconds or 500ms, 30s, 5m, 1h$'),
        (values.size, "big", r'^"big" is not a size; write bytes or 512KiB, 10MiB, 1GiB$'),
        (values.size, "1.5", r"whole number of bytes; write bytes or 512KiB"),
        (values.listen_address, "8080", r"is not an address to listen at; write HOST:PORT, \[v6\]:PORT"),
        (values.listen_address, "*:80", r"no valid host \(all interfaces: 0\.0\.0\.0 or \[::\]\); write HOST:PORT"),
        (values.listen_address, ":80", r"no valid host \(all interfaces: 0\.0\.0\.0 or \[::\]\); write HOST:PORT"),
        (values.listen_address, "a b:80", r"no valid host; write HOST:PORT"),
        (values.listen_address, "h:x", r"no port from 0 to 65535; write HOST:PORT"),
        (Origin.parse, "https://host/path", r"more than an origin; write scheme"),
        (Origin.parse, "ftp://host", r"is not an http or https origin; write scheme"),
        (Origin.parse, "https://h:0", r"no valid host and port; write scheme"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_how_it_is_written(
    parse: Callable[[str], object], text: str, says: str
) -> None:
    with pytest.raises(Bad, match=says):
        parse(text)


def test_a_value_is_repeated_shortened_and_never_with_what_may_be_a_password() -> None:
    assert values.shown('a "b"\n') == r'"a \"b\"\n"'
    assert values.shown("x" * 60) == f'"{"x" * 60}"'
    assert values.shown("x" * 61) == f'"{"x" * 57}..."'
    assert values.shown("user:hunter2@host") == "this value"
    assert values.shown("-----BEGIN PRIVATE KEY-----") == "this value"


def test_a_files_name_is_repeated_unless_it_is_none() -> None:
    assert values.shown_file("/run/credentials/cardcash-proxy@1.service/ca").endswith("proxy@1.service/ca")
    assert values.shown_file("a\nb") == r"a\nb"
    assert len(values.shown_file("x" * 5000)) == 200
    for text in ("https://me:hunter2@host/ca", "https:/me:hun\nter2@host", "-----BEGIN CERTIFICATE-----\nhunter2"):
        assert values.shown_file(text) == "…"


def test_what_is_wrong_in_several_places_is_one_sentence_with_the_places() -> None:
    assert str(Bad("a", ("[2]", "b"))) == "a; [2]: b"


def test_a_host_has_one_spelling_or_is_none() -> None:
    assert values.host_name("[::0:1]") == "::1"
    assert values.host_name("::0:1") == "::1"
    assert values.host_name("A." * 126 + "a") == ("a." * 126 + "a")
    for text in (
        "[127.0.0.1]",
        "[host]",
        "[::1",
        "::1]",
        "a." * 126 + "aa",
        "127.1",
        "1.2.3.256",
        "\u212a",
        "fe80::1%eth0",
    ):
        assert values.host_name(text) is None, text


@pytest.mark.parametrize("text", ["https://a://b", "https://h\\x", "https://h?x", "https://h#x", "https://u:p@h"])
def test_what_is_more_than_an_origin_is_refused(text: str) -> None:
    with pytest.raises(Bad, match=r"more than an origin|user name or password"):
        Origin.parse(text)


def test_the_kinds_of_addresses_and_what_they_name() -> None:
    assert values.listen_address("fd:http") == ListenAddress("fd", name="http")
    assert values.listen_address("unix:///run/x.sock") == ListenAddress("unix", path="/run/x.sock")
    assert values.listen_address("unix://X/x.sock") == ListenAddress("unix", path="/X/x.sock")
    assert values.listen_address("[::1]:0") == ListenAddress("tcp", "::1", 0)
    assert [values.listen_address(text).free for text in ("h:0", "h:1", "fd:x", "unix:/x")] == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(Bad, match="is not a socket"):
        values.listen_address("unix:/run/x\0.sock")


def test_numbers_in_json_stay_text_and_one_value_is_a_list_of_it() -> None:
    assert values.each_part('["a", 1, 2.50, NaN]') == ["a", "1", "2.50", "NaN"]
    assert values.each_part(5) == [5]
    assert values.each_part(("a", "b")) == ["a", "b"]
    with pytest.raises(Bad, match=r"^is not valid JSON$"):
        values.each_part("[" * 100_000)


@pytest.mark.parametrize(
    ("text", "origin", "authority", "host_header"),
    [
        ("https://sandbox-api.cardcash.com", "https://sandbox-api.cardcash.com", "sandbox-api.cardcash.com:443",
         b"sandbox-api.cardcash.com"),
        ("HTTPS://API.Example.COM:443/", "https://api.example.com", "api.example.com:443", b"api.example.com"),
        ("http://localhost:8080", "http://localhost:8080", "localhost:8080", b"localhost:8080"),
        ("http://127.0.0.1:80", "http://127.0.0.1", "127.0.0.1:80", b"127.0.0.1"),
        ("https://[0:0::1]:8443", "https://[::1]:8443", "[::1]:8443", b"[::1]:8443"),
        ("http://host.:443", "http://host:443", "host:443", b"host:443"),
    ],
)  # fmt: skip
def test_an_origin_has_one_spelling(text: str, origin: str, authority: str, host_header: bytes) -> None:
    parsed = Origin.parse(text)
    assert (str(parsed), parsed.authority, parsed.host_header) == (origin, authority, host_header)
    assert Origin.parse(origin) == parsed


@pytest.mark.parametrize("text", ["", "host", "https://", "https:///", "https://h:99999", "https://h:", "https://[::1"])
def test_what_names_no_server_is_no_origin(text: str) -> None:
    with pytest.raises(Bad, match=r"write scheme://host\[:port\]"):
        Origin.parse(text)


def test_a_name_beyond_ascii_is_asked_for_in_its_other_form() -> None:
    with pytest.raises(Bad, match=r"is not an origin .names beyond ASCII"):
        Origin.parse("https://h\u00fcst")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.255.254", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert values.is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "app.localhost",
        "localhost.evil.com",
        "xlocalhost",
        "localhost.localdomain",
        "127.0.0.1.evil.com",
        "128.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "::2",
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "example.com",
    ],
)
def test_any_other_machine_is_not_loopback(host: str) -> None:
    assert not values.is_loopback(host)
