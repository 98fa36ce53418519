"""The rules: globs over every reading of a path."""

from __future__ import annotations

import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.path_readings import classify
from proxy.core.rules import Rule, allowed


def deny(path: str, *methods: str) -> Rule:
    return Rule.of(allow=False, methods=methods, path=path)


def allow(path: str, *methods: str) -> Rule:
    return Rule.of(allow=True, methods=methods, path=path)


def passes(rules: list[Rule], path: str, method: str = "GET", base: str = "/v3") -> bool:
    return allowed(rules, method, classify(path, base))


def matches(glob: str, path: str) -> bool:
    return deny(glob).matches("GET", classify(path))


# Order and methods


def test_without_rules_everything_is_allowed() -> None:
    assert passes([], "/v3/wallets/1/secure-data")


def test_without_a_match_a_request_is_allowed() -> None:
    assert passes([deny("/wallets/**"), allow("/carts")], "/v3/orders")


def test_the_first_match_wins() -> None:
    assert passes([allow("/wallets/1"), deny("/wallets/**")], "/v3/wallets/1")
    assert not passes([deny("/wallets/**"), allow("/wallets/1")], "/v3/wallets/1")
    assert not passes([allow("/wallets/1"), deny("/wallets/**")], "/v3/wallets/2")


def test_a_rule_is_for_its_methods_only() -> None:
    rules = [deny("/orders/**", "post", "PUT")]
    assert not passes(rules, "/v3/orders", "POST")
    assert not passes(rules, "/v3/orders/1", "PUT")
    assert passes(rules, "/v3/orders", "GET")


def test_a_rule_without_methods_is_for_all() -> None:
    assert not any(passes([deny("/orders")], "/v3/orders", method) for method in ("GET", "POST", "PROPFIND"))


def test_a_glob_with_a_version_is_for_the_version_in_front_only() -> None:
    assert passes([deny("/v3/orders")], "/v3/v3/orders")
    assert not passes([deny("/orders")], "/v3/orders")


def test_a_rule_tells_its_path_as_it_is_matched() -> None:
    assert [deny(path).path for path in ("", "*", "Orders/*", "**/x")] == ["/**", "/**", "/Orders/*", "**/x"]


@pytest.mark.parametrize("everything", ["", "*", "/**", "**"])
def test_everything_can_be_denied(everything: str) -> None:
    for path in ("/", "*", "/v3", "/v3/a/b/c", "/v3/%2e%2e", "/x%0Ay"):
        assert not passes([deny(everything)], path)


# Globs


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/v3/wallets", "/v3/wallets"),
        ("/v3/wallets/", "/v3/wallets"),
        ("/v3/wallets", "/v3/wallets/"),
        ("/V3/Wallets", "/v3/wallets"),
        ("/v3/wallets", "/V3/WALLETS"),
        ("wallets", "/v3/wallets"),
        ("/wallets", "/v3.1/wallets"),
        ("/wallets/*", "/v3/wallets/1"),
        ("/wallets/*/secure-data", "/v3/wallets/1/secure-data"),
        ("/wallets/1*", "/v3/wallets/123"),
        ("/wallets/*3", "/v3/wallets/123"),
        ("/wallets/1?3", "/v3/wallets/123"),
        ("/wallets/*2*", "/v3/wallets/123"),
        ("/wallets/**", "/v3/wallets"),
        ("/wallets/**", "/v3/wallets/1"),
        ("/wallets/**", "/v3/wallets/1/2/3"),
        ("/wallets/**/", "/v3/wallets/1/2/3"),
        ("/**/secure-data", "/v3/wallets/1/secure-data"),
        ("**/secure-data", "/v3/wallets/1/secure-data"),
        ("/wallets/**/x", "/v3/wallets/1/2/x"),
        ("/**/x/?/y", "/v3/1/2/x/3/y"),
        ("/**/x/**/y", "/v3/1/2/x/3/4/y"),
        ("/v3/**", "/v3"),
        ("/v3*/wallets", "/v3.1/wallets"),
        ("/wallets**", "/v3/wallets/1/2"),
        ("/wa**ts/1", "/v3/wallets/1"),
        ("/a b", "/v3/a%20b"),
        ("/a?b", "/v3/a%3Fb"),
        ("/a.b", "/v3/a.b"),
        ("/", "/v3"),
        ("/", "/"),
    ],
)
def test_a_glob_matches(glob: str, path: str) -> None:
    assert matches(glob, path)


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/v3/wallets", "/v3.1/wallets"),
        ("/v3/wallets", "/v3/wallets/1"),
        ("/v3/wallets", "/v3/walletsx"),
        ("/wallets", "/v3/x/wallets"),
        ("/wallets/*", "/v3/wallets"),
        ("/wallets/*", "/v3/wallets/1/2"),
        ("/wallets/?", "/v3/wallets"),
        ("/wallets/?", "/v3/wallets/12"),
        ("/wallets?1", "/v3/wallets/1"),
        ("/wallets/**", "/v3/walletsx"),
        ("/wallets/**", "/v3/wallet"),
        ("/wallets/**/x", "/v3/wallets/1/2/y"),
        ("/wallets/**/x", "/v3/wallets/x"),
        ("/a.b", "/v3/axb"),
        ("/a+", "/v3/aa"),
        ("/[ab]", "/v3/a"),
        ("/v3/**", "/v4/x"),
        ("/carts/v3", "/v3/carts"),
        ("/orders/x", "/v3/orders/v3/x"),
    ],
)
def test_a_glob_does_not_match(glob: str, path: str) -> None:
    assert not matches(glob, path)


def reference(glob: str, path: str) -> bool:
    """Match by definition, slowly."""

    @cache
    def rest(at: int, of: int) -> bool:
        if at == len(glob):
            return of == len(path)
        if glob[at : at + 2] == "**":
            return rest(at + 2, of) or (of < len(path) and rest(at, of + 1))
        if glob[at] == "*":
            return rest(at + 1, of) or (of < len(path) and path[of] != "/" and rest(at, of + 1))
        return (
            of < len(path) and (path[of] == glob[at] or (glob[at] == "?" and path[of] != "/")) and rest(at + 1, of + 1)
        )

    return rest(0, 0)


@given(
    st.lists(st.sampled_from(["a", "b", "/a", "/b", "/", "*", "**", "?"]), max_size=8).map("".join),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "bb"]), max_size=4).map(lambda parts: "/" + "/".join(parts)),
)
def test_a_glob_matches_by_definition(glob: str, path: str) -> None:
    tail = "/" + glob.lstrip("/*") + "x"  # a last letter, since the end has rules of its own
    expected = reference("".join(tail), path + "x")
    assert matches(tail, path + "x") is expected


@given(
    st.lists(st.sampled_from(["a", "b", "*", "/"]), max_size=6).map("".join), st.sampled_from(["", "a", "a/b", "b/a/b"])
)
def test_a_tree_is_its_root_and_all_below(glob: str, below: str) -> None:
    root = "/a" + glob.replace("**", "*").rstrip("/")
    path = classify("/a/b/" + below)
    assert deny(root + "/**").matches("GET", path) is (
        any(
            reference(root, view[:cut])
            for view in (reading.view for reading in path.usual)
            for cut in range(1, len(view) + 1)
            if view[cut : cut + 1] in ("", "/")
        )
    )


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/**a**a**a**a**a**a**b", "/v3/" + "a" * 16_000),
        ("/*a*a*a*a*a*a*b", "/v3/" + "a" * 16_000),
        ("/**/*/*/*/**/x", "/v3" + "/a" * 8_000),
        ("/**" + "?" * 50, "/v3" + "/a" * 8_000),
    ],
)
def test_no_path_makes_a_glob_slow(glob: str, path: str) -> None:
    route = classify(path)
    started = time.perf_counter()
    assert not deny(glob).matches("GET", route)
    assert time.perf_counter() - started < 0.5


# Readings

DISGUISED_WALLET = (
    "/v3/wallets/5",
    "/V3/WALLETS/5",
    "/v3//wallets//5/",
    "/v3/./wallets/5",
    "/v3/carts/../wallets/5",
    "/v3/%77allets/5",
    "/v3/%2577allets/5",
    "/v3%2Fwallets%2F5",
    "/v3/carts%2F..%2Fwallets/5",
    "/v3/carts/%2e%2e/wallets/5",
    "/v3/wallets;x=1/5",
    "/v3/carts/..;/wallets/5",
    "/v3\\wallets\\5",
    "/v3/wallets/5%2F..%2F..%2Fcarts",
    "/v3/wallets/5\\..\\..\\carts",
    "/v3/wallets/5%5C..%5C..%5Ccarts",
    "/v3/wallets/5;/../../carts;/../wallets/5",
    "/v3/%" + "25" * 50 + "77allets/5",
)


@pytest.mark.parametrize("path", DISGUISED_WALLET)
def test_a_deny_matches_if_any_reading_does(path: str) -> None:
    assert not passes([deny("/wallets/**")], path)
    assert not passes([deny("/v3/wallets/**")], path)


@pytest.mark.parametrize(
    "path",
    [
        "/v3/carts%2F..%2Fwallets",
        "/v3/wallets%2F..%2Fcarts",
        "/v3/carts\\..\\wallets",
        "/v3/carts;/../wallets",
        "/v3/carts/..%3B/wallets",
        "/v3/carts/%" + "25" * 50 + "41",
    ],
)
def test_an_allow_matches_only_if_all_readings_do(path: str) -> None:
    assert not passes([allow("/carts/**"), deny("/**")], path)


@pytest.mark.parametrize(
    "path", ["/v3/carts", "/v3/Carts/", "/v3/carts/a%20b", "/v3/x/../carts", "/v3/carts/%2541", "/v3.1/carts/1/cards"]
)
def test_an_allow_matches_what_reads_the_same_everywhere(path: str) -> None:
    assert passes([allow("/carts/**"), deny("/**")], path)


def test_a_path_coded_too_deep_meets_every_deny_and_no_allow() -> None:
    path = "/v3/carts/%" + "25" * 50 + "41"
    assert not passes([deny("/unrelated")], path)
    assert not passes([allow("/**"), deny("/unrelated")], path)
    assert passes([deny("/unrelated", "POST")], path)
    assert passes([], path)


@pytest.mark.parametrize("base", ["", "/v3", "/v4.2", "/api", "/api/v3"])
def test_a_glob_without_version_is_below_every_base_path(base: str) -> None:
    assert not passes([deny("/wallets/**")], base + "/wallets/5", base=base)
    assert not passes([deny("/wallets/**")], "/v3/wallets/5", base=base)
    assert passes([allow("/carts"), deny("/**")], base + "/carts", base=base)


def test_letters_that_fold_to_others_only_add_to_a_deny() -> None:
    assert not passes([deny("/orders/**")], "/v3/order%C5%BF")  # "ſ", which some fold to "s"


SECURE = "/v3/wallets/1/secure-data"


@pytest.mark.parametrize(
    "suffix", ["%00", "%00.json", "%0a", "%09", "%0d%0a", "%7f", "%c2%85", "%ef%bb%bf", "%e2%80%8b"]
)
def test_a_path_with_control_or_invisible_characters_meets_every_deny(suffix: str) -> None:
    assert not passes([deny("/unrelated")], SECURE + suffix)


@pytest.mark.parametrize(
    "path",
    [
        "/v3/wallets/1%c0%afsecure-data",
        "/v3/wallets/1%25c0%25afsecure-data",
        "/v3/wallets/1%e0%80%afsecure-data",
        "/v3/x/%c0%ae%c0%ae/wallets",
        "/v3/caf%e9",
        "/v3/x%ff",
    ],
)
def test_a_path_that_is_not_utf_8_meets_every_deny(path: str) -> None:
    assert not passes([deny("/unrelated")], path)


@pytest.mark.parametrize("path", ["/v3/wallets/1%u002fsecure-data", "/v3/wallets/1%U002Fx", "/v3/%25u002e"])
def test_a_path_with_percent_u_meets_every_deny(path: str) -> None:
    assert not passes([deny("/unrelated")], path)


@pytest.mark.parametrize(
    "path",
    [
        SECURE + ".",
        SECURE + "...",
        SECURE + "%20",
        SECURE + "%2520",
        SECURE + "%20.%20",
        "/v3./wallets%20/1./secure-data%20.",
        "/v3/wallets/1/%20secure-data",
        "/v3/x/..%20/wallets/1/secure-data",
        SECURE + "%c2%a0",
    ],
)
def test_a_deny_sees_through_dots_and_spaces_around_segments(path: str) -> None:
    assert not passes([deny("/v3/wallets/*/secure-data")], path)


@pytest.mark.parametrize("end", [".json", ".JSON", "%2ejson", ".json%20", ".json;x", ".html?x=1"])
def test_a_deny_sees_through_a_format_at_the_end(end: str) -> None:
    path = (SECURE + end).partition("?")[0]
    assert not passes([deny("/v3/wallets/*/secure-data")], path)
    assert not passes([deny("/wallets/*/secure-data")], path)


def test_a_format_at_the_end_is_no_reason_against_an_allow() -> None:
    assert passes([allow("/lists/*.json"), deny("/**")], "/v3/lists/a.json")
    assert not passes([allow("/lists"), deny("/**")], "/v3/lists.json")


@pytest.mark.parametrize("end", ["%3f", "%3fx", "%3Fx/y", "%23", "%23a/../b", "%253fx", "%2523", ".%3fx", ";a%3fx"])
def test_a_deny_sees_through_a_coded_end_of_the_path(end: str) -> None:
    assert not passes([deny("/v3/wallets/*/secure-data")], SECURE + end)


@pytest.mark.parametrize(
    "path",
    [
        "/v3/wallets/1%ef%bc%8fsecure-data",
        "/v3/wallets/1/%ef%bd%93ecure-data",
        "/v3/x/%ef%bc%8e%ef%bc%8e/wallets/1/secure-data",
        "/v3/wallets/1%ef%bc%8fsecure-data%20",
        "/v3/wallets%5c1%5csecure-data%20",
    ],
)
def test_a_deny_sees_through_characters_that_fold_to_others(path: str) -> None:
    assert not passes([deny("/v3/wallets/*/secure-data")], path)


@pytest.mark.parametrize(
    "path",
    [
        "/v3/merchants/%c0%ae%c0%ae/orders",
        "/v3/merchants/..%00/orders",
        "/v3/merchants/.%00./orders",
        "/v3/merchants/..%20/orders",
        "/v3/merchants/..%09/orders",
        "/v3/merchants/%u002e%u002e/orders",
        "/v3/merchants/%ef%bc%8e%ef%bc%8e/orders",
        "/v3/orders%3f/../merchants/buy",
        "/v3/orders%23/../merchants/buy",
    ],
)
def test_an_allow_list_lets_no_lenient_reading_through(path: str) -> None:
    assert not passes([allow("/v3/merchants/**"), deny("/**")], path)


@pytest.mark.parametrize("name", ["caf%c3%a9", "a.b", "a%20b", "5%25"])
def test_ordinary_names_pass_an_allow_list(name: str) -> None:
    assert passes([allow("/v3/merchants/**"), deny("/**")], f"/v3/merchants/{name}")


def test_a_path_with_endless_readings_meets_every_deny() -> None:
    path = "/v3/" + "".join(f"%{'25' * depth}ef%{'25' * depth}bc%{'25' * depth}8f;x%5c%3f%20/" for depth in range(7))
    route = classify(path)
    assert len(route.lenient) <= 32
    assert not passes([deny("/unrelated")], path)


@pytest.mark.parametrize("path", ["/v3/session%20", "/v3/session.", "/v3/customers/login%3fx"])
def test_lenient_readings_are_for_rules_only(path: str) -> None:
    route = classify(path)
    assert not route.is_session
    assert not route.is_login


def test_an_order_is_known_in_a_lenient_reading() -> None:
    assert classify("/v3/orders%20").path == "/orders"


def test_a_long_path_with_many_readings_is_denied_and_never_allowed() -> None:
    long = classify("/v3/merchants/" + "%5C;a/" * 2400)
    assert not allowed([Rule.of(allow=False, methods=(), path="/orders/**")], "GET", long)
    assert not allowed(
        [Rule.of(allow=True, methods=(), path="/**"), Rule.of(allow=False, methods=(), path="/**")], "GET", long
    )
    assert allowed([], "GET", long)


@pytest.mark.parametrize("path", ["/v3/wallets%20;x/1", "/v3/wallets.;x=1/1", "/v3/wallets%3f%23;x"])
def test_a_deny_holds_against_a_path_that_is_lenient_in_two_ways_at_once(path: str) -> None:
    assert not passes([deny("/wallets/**")], path)


@pytest.mark.parametrize(
    ("glob", "path", "meant"),
    [
        ("/a??c", "/v3/abbc", True), ("/a??c", "/v3/abc", False), ("/?x?", "/v3/axb", True), ("/?x?", "/v3/ayb", False),
        ("/**/a/**/b", "/v3/x/a/y/b", True), ("/**/a/**/b", "/v3/a/y/c", False), ("*a", "/v3/a", False),
        ("**/a", "/v3/x/a", True), ("/a**b/c", "/v3/a/x/b/c", True), ("/a**b/c", "/v3/a/x/b/d", False),
        ("/aa*a", "/v3/aaa", True), ("/aa*a", "/v3/aa", False), ("/x*", "/v3/yx", False), ("/*b", "/v3/ab", True),
        ("/*b", "/v3/ac", False),
    ],
)  # fmt: skip
def test_signs_stand_for_what_they_say_wherever_they_stand(glob: str, path: str, *, meant: bool) -> None:
    assert matches(glob, path) is meant


@pytest.mark.parametrize("path", ["/api/wallets%20/1", "/api/%EF%BD%97allets/1"])
def test_a_deny_holds_below_any_base_path_for_what_only_lenient_servers_read(path: str) -> None:
    assert not passes([deny("/wallets/**")], path, base="/api")
    assert passes([deny("/wallet/**")], path, base="/api")
