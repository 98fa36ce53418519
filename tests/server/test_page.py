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
        "harvests": 0,
    }  # fmt: skip
    return {
        "since": "2026-01-01T00:00:00+00:00",
        "ready": True,
        "not_ready_because": [],
        "draining": False,
        "session": well | (session or {}),
        "upstream": {"origin": "https://example.com", "connections_idle": 1},
        **more,
    }


OUTAGE = {"state": "none", "expires_in_seconds": None, "failures_in_a_row": 3}
FAILURE = {"at": 0.0, "what": "renewal", "sentence": "No session with CardCash: it answered 503."}


@pytest.mark.parametrize(
    ("told", "colour", "words"),
    [
        (status(), "green", "ends in 19 min"),
        (status({"state": "none", "expires_in_seconds": None}), "green", "made with the next request"),
        (status(OUTAGE, last_failure=FAILURE), "red", "it answered 503"),
        (status({"failures_in_a_row": 2}, last_failure=FAILURE), "yellow", "could not be renewed"),
        (status({"refused": ["app_id"], "advice": "Check app_id."}), "red", "application id"),
        (status({"refused": ["login"], "advice": "Check login.email."}), "yellow", "refuses the login"),
        (status({"identity_lost": True}), "yellow", "is lost"),
        (status(draining=True), "yellow", "stopping"),
        (status(ready=False, not_ready_because=["starting"]), "yellow", "starting"),
        (status(not_alive=["keeper"]), "red", "keeper"),
        (status(store={"kind": "redis", "up": False}), "yellow", "store"),
    ],
)
def test_the_banner_tells_the_worst_that_is_wrong(told: dict[str, Any], colour: str, words: str) -> None:
    found = banner(told)
    assert found.colour == colour
    assert words in found.sentence


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


def test_what_was_not_written_here_is_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    failure = {"at": 0.0, "what": evil, "sentence": evil}
    page = render(status({"identity": evil}, last_failure=failure, recent_failures=[failure]), version="1")
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
    assert "now 2, most 2" in page
