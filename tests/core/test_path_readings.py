"""Where a target goes, what a path is called, and what it may be read as."""

from __future__ import annotations

import contextlib
import itertools
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest
from proxy.core.path_readings import Route, classify
from proxy.core.route_names import KNOWN_ROUTES, OTHER
from proxy.core.target import upstream_target

UUID = "2b1c3d4e-5f60-4a7b-8c9d-0e1f2a3b4c5d"

# upstream_target


@pytest.mark.parametrize(
    "target",
    [
        "/v3",
        "/v3/",
        "/v3/carts",
        "/v3.1/carts/1/cards",
        "/v4",
        "/v12.34/x",
        "/v3?a",
        "/v3.1?a=/b",
        "/v3/../x",
        "/v3//x",
    ],
)
def test_a_target_with_a_version_is_already_an_upstream_target(target: str) -> None:
    assert upstream_target(target, "/v3") == target


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/carts",
        "/v3x",
        "/v3x/carts",
        "/v3.x/",
        "/v3./",
        "/v/",
        "/vv3/",
        "/v-3/",
        "/x/v3/",
        "//v3/carts",
        "/?a=/v3/",
        "/v3%2Fcarts",
        "/%763/carts",
        "/v3;a/carts",
        "//evil.com/",
        "/v３/carts",
        "/a?b#c",
    ],
)
def test_any_other_target_goes_below_the_base_path(target: str) -> None:
    assert upstream_target(target, "/v3") == "/v3" + target
    assert upstream_target(target, "/deep/base") == "/deep/base" + target
    assert upstream_target(target, "") == target


def test_the_asterisk_of_options_has_no_base_path() -> None:
    assert upstream_target("*", "/v3") == "*"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40))
def test_a_target_is_never_changed_but_for_the_base_path(rest: str) -> None:
    target = "/" + rest
    assert upstream_target(target, "/base") in (target, "/base" + target)


# Templates

EXAMPLES = {
    "/v3/session": "/v3/session",
    "/v3/customers": "/v3/customers",
    "/v3/customers/login": "/v3/customers/login",
    "/v3/customers/payment-options": "/v3/customers/payment-options",
    "/v3/customers/payment-options/17": "/v3/customers/payment-options/:id",
    "/v3/customers/drawdown-account": "/v3/customers/drawdown-account",
    "/v3/customers/drawdown-account/transactions": "/v3/customers/drawdown-account/transactions",
    "/v3/merchants/buy": "/v3/merchants/buy",
    "/v3/merchants/buy/bulk": "/v3/merchants/buy/bulk",
    "/v3/merchants/sell": "/v3/merchants/sell",
    "/v3/merchants/99/inventory/bulk": "/v3/merchants/:id/inventory/bulk",
    "/v3/merchants/buy/inventory/bulk": "/v3/merchants/:id/inventory/bulk",
    "/v3/carts": "/v3/carts",
    f"/v3/carts/{UUID}": "/v3/carts/:cartId",
    f"/v3/carts/{UUID}/cards": "/v3/carts/:cartId/cards",
    f"/v3.1/carts/{UUID}/cards": "/v3.1/carts/:cartId/cards",
    f"/v3/carts/{UUID}/cards/{UUID}": "/v3/carts/:cartId/cards/:cardId",
    f"/v3/carts/{UUID}/coupons/SAVE%2010": "/v3/carts/:cartId/coupons/:code",
    "/v3/orders": "/v3/orders",
    "/v3/orders/buy": "/v3/orders/buy",
    "/v3/orders/sell": "/v3/orders/sell",
    f"/v3/orders/{UUID}": "/v3/orders/:orderId",
    f"/v3/orders/status/{UUID}": "/v3/orders/status/:orderId",
    "/v3/wallets": "/v3/wallets",
    "/v3/wallets/12345": "/v3/wallets/:cardId",
    "/v3/wallets/12345/secure-data": "/v3/wallets/:cardId/secure-data",
    "/v3/cards/sell": "/v3/cards/sell",
    "/v3/payments/sell": "/v3/payments/sell",
    "/v3/payments/sell/4": "/v3/payments/sell/:id",
}


@pytest.mark.parametrize(("path", "template"), EXAMPLES.items(), ids=EXAMPLES)
def test_a_known_path_is_called_by_its_template(path: str, template: str) -> None:
    assert classify(path).template == template
    assert classify(path).key == template


def test_every_known_route_has_an_example() -> None:
    assert set(EXAMPLES.values()) == set(KNOWN_ROUTES)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "*",
        "/v3",
        "/v3/",
        "/v3/unknown",
        "/v3/carts/",
        "/v3/carts//cards",
        "/v3//carts",
        "/v4/carts",
        "/v3.1/carts",
        "/carts",
        "/v3/Carts",
        "/v3/wallets/1/secure-data/x",
        "/v3/orders/status/1/2",
        "/v3/carts/1/2/3/4/5/6/7/8/9",
    ],
)
def test_an_unknown_path_is_other(path: str) -> None:
    assert classify(path).template == OTHER


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#"), max_size=40))
def test_a_template_never_shows_a_path_of_a_caller(rest: str) -> None:
    assert classify("/v3/" + rest).template in {*KNOWN_ROUTES, OTHER}


@pytest.mark.parametrize("path", ["/v3/new/12345", "/v3/new/12345/x/678", "/v3/new/" + "x" * 33, "/v3/NEW", "/new"])
def test_the_key_of_an_unknown_route_is_its_first_segment(path: str) -> None:
    assert classify(path).key == "other new"


def test_the_key_of_an_unknown_route_is_bounded() -> None:
    assert len(classify("/v3/" + "abc" * 4000).key) <= 40


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v3/carts",
            "/v3/carts/",
            "//carts",
            "/v3//carts",
            "/v3/%63arts",
            "/v3/Carts",
            "/v3/foo/../carts",
            "/v3/carts;x",
        ),
        *("/v4/carts", "/v3.1/carts/1/cards", "/v3/carts/1/unknown", "/v3/wallets/5/other", "/v3/merchants/buy/bulk"),
        *("/v3/carts%20", "/v3/carts.", "/v3/%ef%bd%83arts"),
        *("/v3/customers/me", "/v3/merchants/1/inventory/bulk/", "/v3/orders/x/y", "/v3/payments/sell/1"),
    ],
)
def test_a_path_about_an_account_needs_a_login_however_it_is_spelt(path: str) -> None:
    for method in ("GET", "POST"):
        assert classify(path).needs_login(method)


@pytest.mark.parametrize(
    "path", ["/v3/merchants/buy", "/v3/merchants/sell/", "/v3/customers/login", "/v3/news", "/", "*"]
)
def test_what_is_public_or_unknown_needs_no_login(path: str) -> None:
    for method in ("GET", "POST"):
        assert not classify(path).needs_login(method)


@pytest.mark.parametrize("path", ["/v3/customers", "/v3/customers/", "/v3/Customers"])
def test_a_sign_up_needs_no_login_but_ones_own_record_does(path: str) -> None:
    assert not classify(path).needs_login("POST")
    for method in ("GET", "HEAD", "PUT", "DELETE", ""):
        assert classify(path).needs_login(method)


# Session and login, disguised


def disguises(path: str) -> list[str]:
    """Ways to write `/v3/...` that some server reads as the same."""
    head, _, tail = path.rpartition("/")
    spelt = "".join(f"%{ord(letter):02x}" for letter in tail)
    plain = path.removeprefix("/v3")
    return [
        path,
        path + "/",
        path + "//",
        path.upper().replace("/V3", "/v3"),
        path.replace("/V3", "/v3").title(),
        "/" + path,
        path.replace("/", "//"),
        f"{head}/./{tail}",
        f"{path}/.",
        f"{path}/x/..",
        f"/v3/carts/..{plain}",
        f"{head}/{spelt}",
        f"{head}/{spelt.upper()}",
        f"{head}/{quote(spelt)}",
        f"{head}%2F{tail}",
        f"{head}%2f{tail}",
        f"{head}%252F{tail}",
        f"{head}\\{tail}",
        f"{head}%5C{tail}",
        f"{path};jsessionid=1",
        f"{path};a=b;c",
        f"{head};x/{tail}",
        f"/v3/carts/..;/{plain.lstrip('/')}",
        f"{path}%3Ba=b",
        f"/v3/carts%2F..{plain}",
        f"/v3.1{plain}",
        f"/v4{plain}",
        f"/v3/%2e%2e/v3{plain}",
    ]


@pytest.mark.parametrize("path", disguises("/v3/session"))
def test_a_session_call_is_known_in_every_disguise(path: str) -> None:
    route = classify(path)
    assert route.is_session
    assert not route.is_login
    assert route.template == "/v3/session"


@pytest.mark.parametrize("path", disguises("/v3/customers/login"))
def test_a_login_call_is_known_in_every_disguise(path: str) -> None:
    route = classify(path)
    assert route.is_login
    assert not route.is_session
    assert route.template == "/v3/customers/login"


@pytest.mark.parametrize("base", ["", "/v3", "/v4", "/api", "/api/v3", "/v3.1"])
@pytest.mark.parametrize("target", ["/session", "/v3/session", "/v3.1/session", "/SESSION/", "//session"])
def test_a_session_call_is_known_below_every_base_path(base: str, target: str) -> None:
    assert classify(upstream_target(target, base), base).is_session


@pytest.mark.parametrize(
    "path",
    [
        "/v3/sessions",
        "/v3/sessionx",
        "/v3/xsession",
        "/v3/session/x",
        "/v3/x/session",
        "/v3/session.json",
        "/v3/session%20",
        "/v3/customers/session",
        "/v3/session/v3",
        "/session/v2/x",
        "/v3",
        "*",
    ],
)
def test_a_path_that_only_resembles_the_session_call_is_none(path: str) -> None:
    for base in ("/v3", ""):
        assert not classify(path, base).is_session


@pytest.mark.parametrize(
    "path", ["/v3/customers", "/v3/customers/login/x", "/v3/login", "/v3/customers/logins", "/v3/customers%20/login"]
)
def test_a_path_that_only_resembles_the_login_call_is_none(path: str) -> None:
    assert not classify(path).is_login


# Views


@pytest.mark.parametrize(
    ("path", "views"),
    [
        ("/v3/carts", ("/v3/carts",)),
        ("/V3/Carts/", ("/v3/carts",)),
        ("/v3/../../carts", ("/carts",)),
        ("/v3/%63arts", ("/v3/%63arts", "/v3/carts")),
        ("/v3/%2563arts", ("/v3/%2563arts", "/v3/%63arts", "/v3/carts")),
        ("/v3/a;b/c", ("/v3/a;b/c", "/v3/a/c")),
        ("/v3/a\\b", ("/v3/a\\b", "/v3/a/b")),
        ("/v3/a%", ("/v3/a%",)),
        ("/v3/%zz", ("/v3/%zz",)),
        ("/v3/%ff", ("/v3/%ff", "/v3/\ufffd")),
        ("", ("/",)),
    ],
)
def test_the_views_of_a_path_are_its_readings(path: str, views: tuple[str, ...]) -> None:
    assert tuple(reading.view for reading in classify(path).usual) == views


def test_the_path_is_the_most_decoded_view_without_base_path_or_version() -> None:
    assert classify("/v3/%2563arts/").path == "/carts"
    assert classify("/v3.1/carts").path == "/carts"
    assert classify("/v3").path == "/"
    assert classify("/api/carts", "/api").path == "/carts"
    assert classify("/v3/x/v3/carts").path == "/x/v3/carts"


def test_the_path_is_a_view_below_orders_if_there_is_one() -> None:
    assert classify("/v3/orders/1%2F..%2F..%2Fcarts").path == "/orders/1%2f..%2f..%2fcarts"


def test_every_view_has_its_plain_one() -> None:
    route = classify("/v3%2F..%2Fv4/a;b\\c")
    assert len(route.usual) > 1
    assert all(reading.view.endswith(reading.plain) for reading in route.readings)


def test_a_path_coded_eight_times_is_read_to_its_end_and_a_deeper_one_is_not() -> None:
    def coded(times: int) -> Route:
        path = "/v3/%2573ession".replace("%2573", "%" + "25" * (times - 1) + "73")
        return classify(path)

    assert coded(7).is_session
    assert not coded(7).unreadable
    assert coded(8).unreadable


@given(st.text(st.sampled_from("/.%25efF\\;av3\u017f\u00e9"), max_size=30))
def test_every_view_is_normal_and_in_lower_case(path: str) -> None:
    for view in (reading.view for reading in classify(path).readings):
        assert view.startswith("/")
        assert view == "/" or not view.endswith("/")
        assert view == view.casefold()
        assert not {".", ".."} & set(view.split("/"))
        assert "//" not in view


@pytest.mark.parametrize(
    "path",
    [
        "/" + "%25" * 5000,
        "/%" + "25" * 8000,
        "/" + ";" * 16_000,
        "/" + "a/" * 8000,
        "/" + "../" * 5000,
        "/" + "%5c;" * 4000,
        "/" + "%c0" * 5000,
        "/v3/" + "1/" * 8000,
    ],
)
def test_a_path_made_to_hurt_is_judged_in_a_moment(path: str) -> None:
    started = time.process_time()
    with contextlib.suppress(BadRequest):
        classify(path)
    assert time.process_time() - started < 0.1


@pytest.mark.parametrize(
    "path", ["/%" + "25" * 7400, "/v3/" + "%25252525252e/" * 1000, "/v3/" + "%EF%B7%BA%20/" * 1200]
)
def test_a_long_path_that_can_be_read_in_very_many_ways_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="many ways"):
        classify(path)


@pytest.mark.parametrize(
    "path", ["/v3/" + "a/" * 7400, "/v3/" + "%C3%A9" * 2400, "/v3/" + "a;b/" * 3000, "/v3/" + "a" * 14_000]
)
def test_a_long_path_that_means_one_thing_is_read(path: str) -> None:
    assert classify("/v3/" + path).template == "other"


def test_a_path_of_usual_length_is_read_in_all_ways_there_are() -> None:
    odd = "/v3/" + "%2525EF%2525BC%25258F;%5C.%20/%253f" * 7
    assert len(odd) > 240
    assert classify(odd).usual


def test_a_judgement_does_not_depend_on_what_was_judged_before() -> None:
    for path, base in itertools.product(("/session", "/v3/session", "/api/session"), ("", "/v3", "/api")):
        assert classify(path, base) == classify(path, base)
    assert not classify("/api/session", "/v3").is_session
    assert classify("/api/session", "/api").is_session


def test_what_is_read_again_when_all_is_decoded_is_the_path() -> None:
    assert classify("/v3/carts;y%3Bz").path == "/carts"
