"""The page for people: its banner tells how things stand, and nothing in it is taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from proxy.server.page import POLICY, banner, render


def status(session: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A proxy that is well, but for what is given."""
    well = {
        "state": "fresh", "expires_at": "2026-01-01T00:19:00+00:00", "expires_in_seconds": 1140.0, "window_seconds": 300.0,
        "lifetime_seconds": 1199.0, "source": "login", "identity": "p…@example.com", "identity_lost": False,
        "refused": [], "advice": None, "paused_seconds": 0.0, "failures_in_a_row": 0, "waiters": 0, "renewals": 1,
        "harvests": 0, "identity_from_caller": False, "renews_by_itself": True,
    }  # fmt: skip
    return {
        "not_alive": [],
        "since": "2026-01-01T00:00:00+00:00",
        "ready": True,
        "not_ready_because": [],
        "draining": False,
        "session": well | (session or {}),
        "store": {"kind": "memory", "host": None, "up": True, "trouble": None, "pending": False, "alone": False},
        "upstream": {"origin": "https://example.com", "connections_idle": 1},
        "traffic": {"step_seconds": 15.0, "bounds_seconds": [1.0], "requests": [], "errors": [], "buckets": []},
        "recent_renewals": [],
        "recent_failures": [],
        "processes": [],
        **more,
    }


NOON = "2026-01-01T12:00:00.000+00:00"
OUTAGE = {"state": "none", "expires_in_seconds": None, "failures_in_a_row": 3}
FAILURE = {
    "time": NOON,
    "what": "renewal (window)",
    "times": 2,
    "sentence": "No session with CardCash: it answered 503.",
}


FAILING = {"step_seconds": 15.0, "bounds_seconds": [1.0], "requests": [50], "errors": [40], "buckets": [[50, 0]]}


@pytest.mark.parametrize(
    ("told", "colour", "words"),
    [
        (status(), "green", "ends in 19 min"),
        (status({"renews_by_itself": False}), "green", "renewed when somebody calls again"),
        (status({"state": "none", "expires_in_seconds": None}), "green", "made by itself"),
        (
            status({"state": "none", "expires_in_seconds": None, "renews_by_itself": False}),
            "green",
            "made with the next request",
        ),
        (status(OUTAGE, recent_failures=[FAILURE]), "red", "it answered 503"),
        (status({"identity_lost": True}, traffic=FAILING), "red", "is lost; requests go on without an account. 80%"),
        (
            status({"failures_in_a_row": 2}, recent_failures=[FAILURE]),
            "yellow",
            "could not be renewed: it answered 503",
        ),
        (status({"failures_in_a_row": 2}, recent_failures=[FAILURE]), "yellow", "the one that is held ends in 19 min"),
        (status({"refused": ["app_id"], "advice": "Check app_id."}), "red", "application id"),
        (status({"refused": ["login"], "advice": "Check login.email."}), "yellow", "refuses the login"),
        (status({"identity_lost": True}), "yellow", "is lost"),
        (status(draining=True), "yellow", "stopping"),
        (status(ready=False, not_ready_because=["starting"]), "yellow", "starting"),
        (status(not_alive=["keeper"]), "red", "keeper"),
        (status(store={"kind": "redis", "up": False, "trouble": "It is loading."}), "yellow", "It is loading."),
    ],
)
def test_the_banner_tells_the_worst_that_is_wrong(told: dict[str, Any], colour: str, words: str) -> None:
    found = banner(told)
    assert found.colour == colour
    assert words in found.sentence


@pytest.mark.parametrize("wrong", [OUTAGE, {"failures_in_a_row": 2}])
def test_a_step_by_step_look_that_costs_no_login_is_advised(wrong: dict[str, Any]) -> None:
    assert "`cardcash-proxy doctor --no-login`" in banner(status(wrong)).advice


def test_processes_that_only_took_a_session_over_claim_no_more() -> None:
    page = render(status(recent_renewals=[]), version="1").partition("<h2>Last renewals")[2].partition("</section>")[0]
    assert "None by the processes that run now." in page


def test_the_store_is_told_of_in_words() -> None:
    store = {
        "kind": "redis",
        "host": "redis://a",
        "up": False,
        "trouble": "It is loading.",
        "pending": True,
        "alone": True,
    }
    page = re.sub("<[^>]+>", " ", render(status(store=store), version="1").partition("Store of the session")[2])
    assert re.search(r"answers +no", page)
    assert re.search(r"something waits to be written +yes", page)
    assert re.search(r"the held session is another than its +yes", page)


@pytest.mark.parametrize("wrong", [{"refused": ["app_id"], "advice": "Check app_id."}, OUTAGE, {"identity_lost": True}])
def test_whoever_must_act_is_told_how(wrong: dict[str, Any]) -> None:
    assert banner(status(wrong)).advice


def test_many_failed_requests_are_told_of() -> None:
    traffic = {
        "step_seconds": 15.0,
        "bounds_seconds": [1.0],
        "requests": [50, 50],
        "errors": [0, 20],
        "buckets": [[1, 0]] * 2,
    }
    assert banner(status(traffic=traffic)).colour == "yellow"
    traffic["errors"] = [0, 1]
    assert banner(status(traffic=traffic)).colour == "green"
    traffic["errors"] = [30, 40]
    assert banner(status(traffic=traffic)).colour == "red"


def test_where_to_look_for_failed_requests_depends_on_who_answered_them() -> None:
    ours = {"time": NOON, "what": "request (upstream_timeout)", "sentence": "It took too long.", "times": 40}
    assert "last failures below" in banner(status(traffic=FAILING, recent_failures=[ours])).advice
    theirs = status(traffic=FAILING, recent_failures=[])
    assert "CardCash's own" in banner(theirs).advice
    assert "last failures" not in banner(theirs).advice
    assert "None of the proxy's own" in render(theirs, version="1")


@pytest.mark.parametrize("session", [OUTAGE, {"failures_in_a_row": 3}])
def test_the_cause_is_in_the_sentence_and_what_to_do_below_it(session: dict[str, Any]) -> None:
    told = banner(status(session, recent_failures=[{**FAILURE, "sentence": "It was refused; check upstream.origin."}]))
    assert "It was refused" in told.sentence
    assert "check upstream.origin" not in told.sentence
    assert told.advice.startswith("Check upstream.origin. It is tried again by itself")


@pytest.mark.parametrize("session", [OUTAGE, {"failures_in_a_row": 3}])
def test_what_is_not_tried_again_by_itself_is_said_to_wait_for_a_request(session: dict[str, Any]) -> None:
    told = banner(status({**session, "renews_by_itself": False}))
    assert told.advice.startswith("It is tried again with the next request;")
    told = banner(status({**session, "renews_by_itself": False, "paused_seconds": 7.0}))
    assert told.advice.startswith("It is tried again with the next request after the pause;")


def test_what_was_not_written_here_is_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    failure = {"time": evil, "what": evil, "sentence": evil, "times": 1}
    renewal = {"time": evil, "reason": evil, "result": evil, "source": evil, "seconds": None}
    told = status(
        {"identity": evil, "source": evil, "state": evil, "refused": ["app_id"], "advice": evil},
        recent_failures=[failure],
        recent_renewals=[renewal],
        store={"kind": evil, "trouble": evil, "up": False},
        processes=[{"pid": evil, "state": evil, "since": evil}],
        not_ready_because=[evil],
        since=evil,
    )
    page = render(told, version=evil)
    assert evil not in page
    assert "&lt;script&gt;" in page


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "action") and tag != "a"]


def test_the_page_needs_nothing_from_outside() -> None:
    tags = Tags()
    tags.feed(render(status(), version="1"))
    assert all(resource.startswith("data:") for resource in tags.resources)
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_charts_are_drawn_from_the_traffic() -> None:
    traffic = {
        "step_seconds": 15.0, "bounds_seconds": [0.1, 1.0], "requests": [15, 30], "errors": [0, 3],
        "buckets": [[15, 0, 0], [20, 9, 1]],
    }  # fmt: skip
    page = render(status(traffic=traffic), version="1")
    assert len(re.findall(r"<rect x=", page.partition("Traffic")[2])) == 3
    assert "now 2 a second, most 2" in page
    assert "6.67% of all" in page
    assert "half within 100 ms" in page and "95 % within 1 s" in page


def test_a_first_measurement_is_seen_and_so_is_a_gap() -> None:
    traffic = {
        "step_seconds": 15.0, "bounds_seconds": [0.1, 1.0], "requests": [1, 0, 2], "errors": [0, 0, 0],
        "buckets": [[1, 0, 0], [0, 0, 0], [0, 2, 0]],
    }  # fmt: skip
    (path,) = re.findall(r'<path class="line1" d="([^"]+)"', render(status(traffic=traffic), version="1"))
    assert re.sub(r"[0-9. ]+", "", path) == "MHMH"


def test_what_is_to_be_typed_is_marked_and_nothing_else_of_a_sentence_is() -> None:
    page = render(status({"refused": ["app_id"], "advice": "Run `cardcash-proxy <x>`."}), version="1")
    assert "Run <code>cardcash-proxy &lt;x&gt;</code>." in page


def test_what_is_paused_or_refused_is_told_with_what_to_do() -> None:
    session = {"refused": ["login"], "advice": "Check login.email.", "paused_seconds": 7.0, "failures_in_a_row": 3}
    page = render(status(session), version="1").partition("<h2>Pauses")[2].partition("</section>")[0]
    assert "another 7 s, after 3 failed in a row" in page
    assert "login; not tried again by itself" in page and "Check login.email." in page
    assert "Nothing is paused or refused" in render(status(), version="1")


def test_renewals_are_told_with_reason_result_and_duration_the_newest_first() -> None:
    renewals = [
        {"time": NOON, "reason": reason, "result": result, "source": "login", "seconds": seconds}
        for reason, result, seconds in (("start", "ok", 0.12), ("window", "failed", 10.0))
    ]
    page = re.sub("<[^>]+>", " ", render(status(recent_renewals=renewals), version="1"))
    assert re.search(r"01 Jan 12:00:00 +window +failed +10 s +01 Jan 12:00:00 +start +ok +120 ms", page)


@pytest.mark.parametrize(
    ("left", "words"),
    [(1140.0, ("made 59 s ago", "to be renewed in 14 min", "ends in 19 min")), (100.0, ("in its renewal window",))],
)
def test_the_sessions_life_is_told_in_words_beside_the_bar(left: float, words: tuple[str, ...]) -> None:
    page = render(status({"expires_in_seconds": left}), version="1")
    assert '<svg class="life"' in page
    assert all(word in page for word in words)
