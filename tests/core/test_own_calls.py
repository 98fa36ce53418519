"""The session and the login call: served when spelt plainly, never forwarded however a server may read them."""

from __future__ import annotations

import time

import pytest

from proxy.core.errors import BadRequest
from proxy.core.own_calls import check_own_call
from proxy.core.path_readings import classify
from proxy.core.target import upstream_target


def judged(method: str, target: str, base: str = "/v3") -> None:
    path = upstream_target(target, base).partition("?")[0]
    check_own_call(method, path, classify(path, base), base)


OWN = ("/session", "/customers/login")


@pytest.mark.parametrize("base", ["", "/v3", "/v4", "/api", "/api/v3"])
@pytest.mark.parametrize("version", ["", "/v3", "/v3.1", "/v4"])
@pytest.mark.parametrize("own", OWN)
def test_the_plain_spelling_is_served_below_every_version_and_base_path(own: str, version: str, base: str) -> None:
    judged("POST", version + own, base)
    judged("POST", f"{version}{own}?x=/y", base)


#: `%` stands for the path; what some server or other reads as the same.
ODD = (
    "%/",
    "%//",
    "%%20",
    "%%09",
    "%.",
    "%..",
    "%.json",
    "%.xml",
    "%.a.b",
    "%;x",
    "%;jsessionid=1",
    "%%3bx",
    "%,x",
    "%:x",
    "%$",
    "%~",
    "%(x)",
    "%%00",
    "%%00x",
    "%%0a",
    "%%ad",
    "%%e2%80%8b",
    "%%u0020",
    "%%23x",
    "%%3fx",
    "%%253fx",
    "%/.",
    "%/./",
    "%/x/..",
    "%/%20",
    "%/.json",
    "%/%2ejson",
    "%/;x",
    "%/!",
    "%/..;/x/..",
    "/carts/..%",
    "/carts/..;%",
    "/carts/%2e%2e%",
    "/%",
    "/.%",
    "%\\",
    "%%5c",
)
#: Every letter, separator or version of one in another way.
ODD_INSIDE = (
    "/v3//session",
    "//v3/session",
    "/V3/session",
    "/v3/Session",
    "/v3/SESSION",
    "/v3;x/session",
    "/v3./session",
    "/v3%20/session",
    "/v3%2fsession",
    "/v3\\session",
    "/v3/%73ession",
    "/v3/%2573ession",
    "/v3/%20session",
    "/v3/.session",
    "/v3/ses%00sion",
    "/v3/ses%c2%adsion",
    "/v3/%ef%bd%93ession",
    "/v3/%c5%bfession",
    "/v3/%u0073ession",
    "/v3//customers/login",
    "/v3/customers//login",
    "/v3/Customers/Login",
    "/v3/customers;x/login",
    "/v3/customers./login",
    "/v3/customers.json/login.json",
    "/v3/customers%20/login",
    "/v3/customers%2flogin",
    "/v3/customers\\login",
    "/v3/customers/x/../login",
    "/v3/customers/%6cogin",
)


@pytest.mark.parametrize("base", ["/v3", "/api"])
@pytest.mark.parametrize("prefix", ["", "/v3", "/v3.1"])
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_spelling_is_refused_whatever_the_method(odd: str, own: str, prefix: str, base: str) -> None:
    target = prefix + (own + odd[1:] if odd.startswith("%") else odd[:-1] + own)
    for method in ("POST", "GET", "PUT", "OPTIONS", "QUERY"):
        with pytest.raises(BadRequest, match="plainly"):
            judged(method, target, base)


@pytest.mark.parametrize("target", ODD_INSIDE)
def test_an_oddly_spelt_letter_or_separator_is_refused(target: str) -> None:
    for method in ("POST", "GET"):
        with pytest.raises(BadRequest, match="plainly"):
            judged(method, target)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("version", ["", "/v3", "/v3.1"])
def test_another_method_is_refused(method: str, own: str, version: str) -> None:
    with pytest.raises(BadRequest, match="with POST"):
        judged(method, version + own)


@pytest.mark.parametrize(
    "target",
    [
        "/sessions",
        "/sessionx",
        "/session-status",
        "/session_x",
        "/xsession",
        "/session/x",
        "/x/session",
        "/v3/session/v3",
        "/customers",
        "/customers/",
        "/customers/logins",
        "/customers/login/x",
        "/customers/payment-options",
        "/login",
        "/carts?next=/session",
        "/v3/carts/x/coupons/session",
        "/%ff",
        "*",
        "/",
    ],
)
def test_everything_else_goes_its_way(target: str) -> None:
    for method in ("GET", "POST"):
        judged(method, target)


@pytest.mark.parametrize(
    "target", ["/" + "%ad" * 5000, "/" + "%ad/" * 4000, "/%e2%80%8b" + "x" * 15_000, "/" + "%u0073" * 2500]
)
def test_a_path_made_to_hurt_is_judged_in_a_moment(target: str) -> None:
    route = classify(target, "/v3")
    started = time.perf_counter()
    check_own_call("POST", target, route, "/v3")
    assert time.perf_counter() - started < 0.05


@pytest.mark.parametrize("target", ["/v3/v3/session", "/v3/v4/customers/login", "/v3" * 7 + "/session"])
def test_two_versions_are_no_plain_spelling(target: str) -> None:
    with pytest.raises(BadRequest, match="plainly"):
        judged("POST", target)


@pytest.mark.parametrize("target", ["/v3/customers/v3/login", "/v3/merchants/session", "/merchants/customers/login"])
def test_a_version_or_another_segment_in_the_middle_makes_it_another_path(target: str) -> None:
    judged("GET", target)


@pytest.mark.parametrize("base", ["", "/customers", "/a/b/c/d/e"])
@pytest.mark.parametrize("path", OWN)
def test_one_of_the_two_paths_is_itself_whatever_the_base_path_is_called(path: str, base: str) -> None:
    for upstream in (path, base + path):
        with pytest.raises(BadRequest, match="with POST"):
            check_own_call("GET", upstream, classify(upstream, base), base)


def test_letters_of_another_width_are_read_where_bytes_beside_them_cannot_be() -> None:
    with pytest.raises(BadRequest, match="plainly"):
        judged("POST", "/v3/%EF%BD%93ession%ff")


@pytest.mark.parametrize("target", ["/v3/x.session", "/v3/x-session"])
def test_the_first_name_in_a_segment_is_its_name(target: str) -> None:
    judged("GET", target)
