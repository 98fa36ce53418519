"""What callers' requests mean: what may be sent twice, what buys."""

from __future__ import annotations

import pytest

from proxy.core.path_readings import classify
from proxy.core.repeatability import buys, may_repeat, overriding_methods


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders"),
        ("GET", "/wallets/5/secure-data"),
        ("HEAD", "/carts"),
        ("POST", "/session"),
        ("POST", "/carts"),
    ],
)
def test_the_safe_list_may_be_sent_twice(method: str, path: str) -> None:
    assert may_repeat(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/orders"),
        ("PUT", "/orders/5"),
        ("POST", "/carts/5/cards"),
        ("POST", "/cartsx"),
        ("PUT", "/carts"),
        ("DELETE", "/carts"),
        ("PATCH", "/session"),
        ("PUT", "/session"),
        ("POST", "/customers/login"),
        ("POST", "/customers"),
        ("OPTIONS", "/carts"),
        ("QUERY", "/carts"),
        ("get", "/carts"),
    ],
)
def test_everything_else_may_not_be_sent_twice(method: str, path: str) -> None:
    assert not may_repeat(method, path)


@pytest.mark.parametrize(("method", "path"), [("GET", "/carts"), ("HEAD", "/carts"), ("POST", "/carts")])
def test_a_request_with_an_overridden_method_may_not_be_sent_twice(method: str, path: str) -> None:
    assert not may_repeat(method, path, overridden=True)


ORDER_SPELLINGS = (
    "/v3/orders",
    "/v3.1/orders",
    "/v4/orders",
    "/V3/ORDERS",
    "/v3/Orders/",
    "/v3//orders",
    "/v3/./orders",
    "/v3/carts/../orders",
    "/v3/%6Frders",
    "/v3/%256frders",
    "/v3%2Forders",
    "/v3/orders;jsessionid=1",
    "/v3/carts/..;/orders",
    "/v3\\orders",
    "/v3/orders/2b1c3d4e-0000-4000-8000-000000000000",
    "/v3/orders/status/5",
    "/orders",
    "/v3/orders/5%2F..%2F..%2Fcarts",
    "/v3/orders/5\\..\\..\\carts",
    *(
        f"/v3/orders{odd}"
        for odd in (".json", ".xml", ",x", ":x", "!", "~", "$", "&checkout=condensed", "=x", "+", "*", "x")
    ),
    *(f"/v3/orders%{code}" for code in ("00", "0a", "0d", "09", "ff", "00.json", "u002f", "E2%80%8B")),
    "/v3/xorders",
    "/v3/orders.json/abc",
    "/v3/orders%00/abc",
)


@pytest.mark.parametrize("path", ORDER_SPELLINGS)
def test_an_order_buys_however_it_is_spelt(path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert buys(method, classify(path))
        assert not may_repeat(method, classify(path).path)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_an_order_does_not_buy(method: str) -> None:
    assert not buys(method, classify("/v3/orders/5"))


@pytest.mark.parametrize("path", ["/v3/carts", "/v3/wallets/5", "/v3/session", "/", "*"])
def test_nothing_but_orders_buys(path: str) -> None:
    assert not buys("POST", classify(path))


@pytest.mark.parametrize(
    "query",
    ["_method=PUT", "a=1&_METHOD=PUT", "%5fmethod=PUT", "a;_method=PUT", "X-HTTP-Method-Override=PUT", "_method"],
)
def test_a_query_that_may_make_another_method_of_it_is_known(query: str) -> None:
    assert overriding_methods(query)


def test_all_methods_that_a_query_names_are_known() -> None:
    assert overriding_methods("_method&a=1&_method=delete&x-http-method=%50UT") == ("", "DELETE", "PUT")


@pytest.mark.parametrize("query", ["", "a=_method", "x_method=PUT", "_methods=1", "payment_method=ACH"])
def test_other_queries_override_nothing(query: str) -> None:
    assert not overriding_methods(query)


@pytest.mark.parametrize("path", ["/v3/carts", "/v3.1/carts", "/v3/carts/", "/V3/Carts", "/v3//carts"])
def test_making_a_cart_may_be_sent_twice_under_every_version(path: str) -> None:
    assert may_repeat("POST", classify(path).path)


@pytest.mark.parametrize("path", ["/v3/%EF%BD%8Frders", "/v3/%EF%BC%AFRDERS/5", "/v3/x/%E2%93%9Erders"])
def test_what_only_a_lenient_server_takes_for_an_order_can_buy(path: str) -> None:
    assert buys("POST", classify(path))
    assert not buys("GET", classify(path))
