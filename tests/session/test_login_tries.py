"""When a session call is sent again, and after how long: one table of cases."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest

from proxy.core.errors import (
    Draining,
    Overloaded,
    ProxyError,
    UpstreamInvalid,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.session.call_sender import CallAnswer, CallSender, retry_after
from tests.session.fakes import FakeClock

NOW = FakeClock().wall


class Reply:
    """An answer that came whole."""

    def __init__(self, status: int, wait: str | None = None) -> None:
        self.status = status
        self.headers = [] if wait is None else [(b"Retry-After", wait.encode())]
        self._parts = deque([b"{}"])

    async def read(self) -> bytes:
        return self._parts.popleft() if self._parts else b""

    def close(self) -> None:
        self._parts.clear()


class CallClient:
    """Brings the same again and again, and counts."""

    def __init__(self, *brings: Reply | Exception) -> None:
        self.brings = deque(brings)
        self.sent = 0

    async def send(self, *, method: str, head: bytes, body: bytes | None) -> Reply:
        self.sent += 1
        what = self.brings.popleft() if len(self.brings) > 1 else self.brings[0]
        if isinstance(what, Exception):
            raise what
        return Reply(what.status, what.headers[0][1].decode() if what.headers else None)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds waited between tries; none of them passes."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("aiohttp_retry.client.asyncio", SimpleNamespace(sleep=sleep))
    return waited


async def outcome(
    client: CallClient,
    *,
    tries: int = 3,
    passing: Iterable[int] = (),
    fraction: float = 1.0,
    until: float = math.inf,
) -> CallAnswer | ProxyError:
    failed: list[str] = []
    sender = CallSender(client, clock=FakeClock(), fraction=lambda: fraction, failed=failed.append)
    try:
        return await sender.send(
            "POST", head=b"", body=None, tries=tries, passing=lambda answer: answer.status in passing, until=until
        )
    except ProxyError as error:
        assert failed == [getattr(error, "kind", None)] * client.sent or isinstance(error, Draining | Overloaded)
        return error


def date(seconds: float) -> str:
    return email.utils.formatdate(NOW + seconds, usegmt=True)


AGAIN = [0.5, 1.0]
TABLE: dict[str, tuple[Reply | Exception, list[float]]] = {
    # Nothing came, or not all of it.
    **{
        kind: (UpstreamUnreachable("no", kind=kind, sent=False), AGAIN)
        for kind in ("dns", "refused", "unreachable", "connect_timeout", "tls", "proxy")
    },
    **{
        kind: (UpstreamReset("no", kind=kind, sent=True), AGAIN)
        for kind in ("reset_before_head", "reset_in_head", "reset_in_body")
    },
    **{
        kind: (UpstreamTimeout("no", kind=kind, sent=True), AGAIN)
        for kind in ("send_timeout", "head_timeout", "body_timeout")
    },
    # What would come again.
    "no HTTP": (UpstreamInvalid("no", kind="invalid", sent=True), []),
    "the proxy stops": (Draining("no"), []),
    "no connection is free": (Overloaded("no"), []),
    # Answers.
    **{str(status): (Reply(status), AGAIN) for status in (500, 502, 503, 504, 520, 599)},
    **{str(status): (Reply(status), []) for status in (200, 201, 204, 302, 400, 401, 403, 408, 429)},
    "418": (Reply(418), AGAIN),
    # CardCash says when.
    "503, in 3 s": (Reply(503, "3"), [3.0, 3.0]),
    "503, at once": (Reply(503, "0"), AGAIN),
    "503, in 4 s": (Reply(503, "4"), [4.0, 4.0]),
    "503, in 5 s": (Reply(503, "5"), []),
    "503, in an hour": (Reply(503, "3600"), []),
    "503, at a time 3 s away": (Reply(503, date(3)), [3.0, 3.0]),
    "503, at a time an hour away": (Reply(503, date(3600)), []),
    "503, at a time that has passed": (Reply(503, date(-3600)), AGAIN),
    "503, but no time can be read": (Reply(503, "soon"), AGAIN),
    "418, in 3 s": (Reply(418, "3"), [3.0, 3.0]),
    "418, in 5 s": (Reply(418, "5"), []),
    "429, in 3 s": (Reply(429, "3"), []),
}


@pytest.mark.parametrize("case", TABLE)
async def test_when_a_call_is_sent_again_and_after_how_long(waits: list[float], case: str) -> None:
    """418 stands for what the call itself takes for passing."""
    brings, expected = TABLE[case]
    client = CallClient(brings)
    last = await outcome(client, passing=[418])
    assert client.sent == 1 + len(expected)
    assert waits == pytest.approx(expected)
    assert last is brings if isinstance(brings, Exception) else isinstance(last, CallAnswer)


@pytest.mark.parametrize(("left", "sent"), [(2.9, 1), (60, 3)])
async def test_what_would_be_waited_for_beyond_the_end_stands_at_once(
    waits: list[float], left: float, sent: int
) -> None:
    client = CallClient(Reply(503, "3"))
    last = await outcome(client, until=asyncio.get_running_loop().time() + left)
    assert isinstance(last, CallAnswer)
    assert (last.retry_after, client.sent) == (3, sent)
    client = CallClient(Reply(503))
    await outcome(client, until=asyncio.get_running_loop().time() - 1)
    assert (client.sent, len(waits)) == (1, sent - 1)


async def test_tries_end_with_the_first_answer_that_stands(waits: list[float]) -> None:
    client = CallClient(UpstreamReset("no", kind="reset_before_head", sent=True), Reply(502), Reply(201))
    last = await outcome(client, tries=9)
    assert isinstance(last, CallAnswer)
    assert (last.status, client.sent) == (201, 3)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
async def test_waits_are_a_random_part_of_a_capped_doubling(waits: list[float], fraction: float) -> None:
    await outcome(CallClient(Reply(503)), tries=7, fraction=fraction)
    assert waits == pytest.approx([fraction * wait for wait in (0.5, 1.0, 2.0, 4.0, 4.0, 4.0)])


async def test_the_library_that_sends_again_writes_no_log_lines(
    waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await outcome(CallClient(Reply(503)), tries=2)
    gc.collect()  # it would warn at its end
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@pytest.mark.parametrize("tries", [1, 2, 5])
async def test_a_call_is_never_sent_more_often_than_asked(waits: list[float], tries: int) -> None:
    for brings in (Reply(503), UpstreamReset("no", kind="reset_before_head", sent=True)):
        client = CallClient(brings)
        await outcome(client, tries=tries)
        assert client.sent == tries


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b"99999999999999999999", 999999999.0),
        (b"Fri, 15 Jan 2027 08:00:07 GMT", 7.0),
        (b"Friday, 15-Jan-27 08:00:07 GMT", 7.0),
        (b"Fri Jan 15 08:00:07 2027", 7.0),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"soon", None),
        (b"Fri, 99 Jan 2027 08:00:07 GMT", None),
        (b"\xb2", None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date_of_any_form(value: bytes, seconds: float | None) -> None:
    assert NOW == 1_800_000_000  # 15 January 2027, 8:00
    assert retry_after([(b"retry-AFTER", value)], NOW) == seconds
    assert retry_after([], NOW) is None
