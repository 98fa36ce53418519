"""Log lines for people at a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.telemetry.console import line

REQUEST = {
    "request_id": "a1b2",
    "method": "GET",
    "route": "/v3/carts/:cartId",
    "status": 200,
    "duration_ms": 12.34,
    "upstream_ms": 11.0,
    "attempts": 1,
    "client": "127.0.0.1",
    "event": "request",
    "level": "info",
    "timestamp": "2026-01-02T03:04:05.678901Z",
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def plain(event: dict[str, Any]) -> str:
    return line(event, colours=False)


def test_of_a_request_time_level_method_route_status_and_duration_come_first() -> None:
    assert plain(REQUEST) == (
        "03:04:05.678 info    GET /v3/carts/:cartId 200 12.34 ms "
        "upstream_ms=11.0 attempts=1 client=127.0.0.1 request_id=a1b2"
    )


def test_of_anything_else_the_event_comes_first_and_a_sentence_last() -> None:
    event = {"sentence": "It said no.", "reason": "start", "result": "failed", "pause": 1.5}
    told = plain({**event, "event": "session_renewal", "level": "warning", "timestamp": REQUEST["timestamp"]})
    assert told == "03:04:05.678 warning session_renewal start failed pause=1.5 sentence='It said no.'"


@pytest.mark.parametrize("evil", ["a\nb", "\x1b[2J", "a status=200", "a=b", "", "'", "a\u202eb", "\x9b2J"])
def test_no_value_can_move_the_cursor_or_look_like_another_field(evil: str) -> None:
    told = plain({**REQUEST, "client": evil, "extra": [evil]})
    assert told.isprintable()
    assert re.search(r" client=('[^']*'|\"[^\"]*\") ", told)


def test_what_is_not_known_is_left_out() -> None:
    assert "upstream_ms" not in plain({**REQUEST, "upstream_ms": None})


def test_colours_are_only_where_they_are_wanted() -> None:
    assert "\x1b[32m200\x1b[0m" in line(REQUEST, colours=True)
    assert "\x1b[1;31m503\x1b[0m" in line({**REQUEST, "status": 503}, colours=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", line(REQUEST, colours=True)) == plain(REQUEST)
