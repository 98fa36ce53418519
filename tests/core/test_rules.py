"""The rules: globs over every reading of a path."""

from __future__ import annotations

import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.routes import Rule, allowed, classify


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
            for view in path.views
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
