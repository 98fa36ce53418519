"""Mutated requests and answers against the running process, each judged by a strict reading of the same bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import strategies as st

from tests.fuzz.corpus import ALL, timeout
from tests.fuzz.grammar import Malformed, Message, Unfinished, final_answer, requests_in
from tests.fuzz.lane import Connection, Outcome, ProxyLane, ordinary, proxy_lane
from tests.fuzz.mutation import explore, mutated, pieces
from tests.fuzz.test_odd_responses import difference, reading

#: Stands where nothing of a request may come back from: path, field names and values, bodies.
MARKER = b"zq5d1f8mark"
_HEAD = b"Host: localhost\r\nX-%b: %b\r\n" % (MARKER, MARKER)
_INSIDE = b"GET /v3/smuggled-%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % MARKER
_LENGTH = b"Content-Length: %d\r\n" % len(_INSIDE)
_GET = b"GET /v3/%b?a=b%%20c&d HTTP/1.1\r\n%bAccept: */*\r\nCookie: a=b\r\n\r\n" % (MARKER, _HEAD)
_POST = b"POST /v3/orders-%b HTTP/1.1\r\n%bContent-Type: text/plain\r\n%b\r\n%b" % (MARKER, _HEAD, _LENGTH, _INSIDE)
_CHUNKED = (
    b"PUT /v3/%b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n%x;a=b\r\n%b\r\n0\r\nX-T: %b\r\n\r\n"
    % (*(MARKER, _HEAD, len(_INSIDE), _INSIDE, MARKER),)
)
REQUESTS = [
    _GET,
    _POST,
    _CHUNKED,
    _GET + _GET.replace(b"/v3/", b"/other/"),
    _POST + _GET,
    _GET + _CHUNKED,
    b"HEAD /v3/%b HTTP/1.1\r\n%b\r\n" % (MARKER, _HEAD) + _GET,
    b"DELETE http://localhost/v3/%b HTTP/1.1\r\n%bExpect: 100-continue\r\n%b\r\n%b" % (MARKER, _HEAD, _LENGTH, _INSIDE),
    b"POST /v3/%b HTTP/1.0\r\n%bConnection: keep-alive\r\n%b\r\n%b" % (MARKER, _HEAD, _LENGTH, _INSIDE) + _GET,
    b"OPTIONS * HTTP/1.1\r\n%bConnection: X-%b\r\n\r\n" % (_HEAD, MARKER),
]
_SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
_ANSWER = b"Content-Type: text/plain\r\nX-Kept: \xe9t\xe9\r\nLink: <a>\r\nLink: <b>\r\nSet-Cookie: a=b\r\n"
ANSWERS = [
    b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (_ANSWER, len(_SECOND), _SECOND),
    b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n%x\r\n%b\r\n0\r\nX-T: t\r\n\r\n"
    % (_ANSWER, len(_SECOND), _SECOND),
    b"HTTP/1.1 103 Early Hints\r\nLink: <c>\r\n\r\nHTTP/1.1 404 Not Found\r\n%bContent-Length: 5\r\n\r\nhello"
    % _ANSWER,
    b"HTTP/1.1 204 No Content\r\n%b\r\n" % _ANSWER,
    b"HTTP/1.1 304 Not Modified\r\n%bContent-Length: 5\r\n\r\n" % _ANSWER,
    b"HTTP/1.1 200 OK\r\n%bConnection: close\r\n\r\nuntil the end" % _ANSWER,
    b"HTTP/1.0 500 Oh No\r\n%bConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello" % _ANSWER,
    b"HTTP/1.1 200 OK\r\n%bContent-Length: 5\r\n\r\nhello" % _ANSWER + _SECOND,
]


@contextlib.contextmanager
def running(**settings: str) -> Iterator[tuple[asyncio.Runner, ProxyLane]]:
    """Run a lane for a test that hypothesis calls again and again; check at the end that all is well with it."""
    with asyncio.Runner() as runner:
        context = proxy_lane(**settings)
        lane = runner.run(context.__aenter__())
        try:
            yield runner, lane
            runner.run(lane.all_well(MARKER))
        finally:
            runner.run(context.__aexit__(None, None, None))


def ways_up(message: Message) -> list[tuple[bytes, bytes, bytes]]:
    """Tell how a request of a caller may look at the upstream."""
    method, target, body = message.what
    target = re.sub(rb"(?i)\Ahttps?://[^/?#]*", b"", target)
    if not target and method == b"OPTIONS":
        return [(method, b"*", body)]
    target = target if target[:1] in (b"/", b"*") else b"/" + target
    return [(method, target, body), (method, b"/v3" + target, body)]


def _judge(lane: ProxyLane, outcome: Outcome, asked: Sequence[Message]) -> None:
    faults, lane.upstream.faults = lane.upstream.faults, []
    assert faults == []
    assert outcome.wrong == []
    assert lane.leaks(outcome.raw, MARKER) == []
    assert outcome.statuses or outcome.closed
    assert all(status < 500 for status in outcome.statuses)
    # Some may have been refused by a guard; what went up is among the rest, in order.
    rest = iter(asked)
    for sent in outcome.requests:
        assert any(sent.what in ways_up(message) for message in rest), f"{sent.what} was never asked for"


def _heads(data: bytes) -> list[bool]:
    return [message.start[0] == b"HEAD" for message in requests_in(data)]


@timeout()
def test_mutated_requests_go_up_as_they_read_strictly_or_not_at_all() -> None:
    with running(CALLERS__ALLOWED_HOSTS="localhost,example.com") as (runner, lane):

        def check(parts: list[bytes]) -> None:
            data = b"".join(parts)
            _judge(lane, runner.run(lane.play(*parts, heads=_heads(data))), list(requests_in(data)))

        explore(check, pieces(mutated(REQUESTS)), examples=500)


@timeout()
async def test_requests_mean_the_same_wherever_they_are_split() -> None:
    async with proxy_lane() as lane:
        for data in REQUESTS:
            asked = list(requests_in(data))
            assert sum(message.size for message in asked) == len(data)
            # Trailers of a chunked request end its connection: nothing behind it is served (see proxy/server).
            served = next(
                (n + 1 for n, message in enumerate(asked) if message.values(b"transfer-encoding")), len(asked)
            )
            for place in range(0, len(data), 1 if ALL else 23):
                parts = [data[:place], data[place:]] if place else [data]
                outcome = await lane.play(*parts, heads=_heads(data), expect=served)
                _judge(lane, outcome, asked)
                assert outcome.statuses == [200] * served, (data, place)
                assert len(outcome.requests) == served
        await lane.all_well(MARKER)


async def _ask(lane: ProxyLane, raw: bytes, *, closed: bool) -> Message | None:
    """Have a request answered with `raw`, then ask again on the same connection where it was kept."""
    lane.upstream.forget()
    lane.upstream.respond = lambda request: (raw, closed)
    connection = await Connection.open(lane.address)
    try:
        connection.send(b"POST /v3/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        got, rest = None, b""
        async with asyncio.timeout(8):
            while got is None:
                connection.news.clear()
                with contextlib.suppress(Unfinished):
                    got, rest = final_answer(bytes(connection.data), closed=False)
                if got is None and connection.closed:
                    break
                if got is None:
                    await connection.news.wait()
        assert rest == b"", "something stands behind the answer"
        assert lane.leaks(bytes(connection.data)) == []
        assert len(lane.upstream.requests) == 1, "an order was not sent exactly once"
        served = lane.upstream.served
        if got is not None and got.values(b"connection") != [b"close"]:
            connection.data.clear()
            lane.upstream.respond, lane.upstream.cut = ordinary, 0
            connection.send(b"GET /v3/after HTTP/1.1\r\nHost: localhost\r\n\r\n")
            after = await connection.answer()
            assert after.body == b"an ordinary answer", "the answer of another request"
    finally:
        await connection.close()
    await lane.probe()
    await lane.probe(new=True)
    lane.upstream.served = served
    return got


@timeout()
def test_mutated_answers_come_down_as_they_read_strictly_or_broken() -> None:
    with running(UPSTREAM__RESPONSE_TIMEOUT="1") as (runner, lane):

        def check(case: tuple[bytes, int]) -> None:
            raw, lane.upstream.cut = case
            expected, behind = reading(raw, closed=False)
            closed = expected is None  # or the proxy would wait for the rest of it
            if closed:
                expected, behind = reading(raw, closed=True)
            fault = difference(expected, runner.run(_ask(lane, raw, closed=closed)))
            assert fault is None, fault
            assert not (behind and lane.upstream.kept), "a connection with stray bytes was kept"

        cuts = st.one_of(st.just(0), st.integers(0, 200))
        explore(check, st.tuples(mutated(ANSWERS), cuts), examples=500)


def test_the_strict_reading_takes_the_templates_and_refuses_what_is_ambiguous() -> None:
    whole: Callable[[bytes], bool] = lambda raw: sum(m.size for m in requests_in(raw)) == len(raw)  # noqa: E731
    assert all(whole(raw) for raw in REQUESTS)
    assert all(reading(raw, closed=True)[0] is not None for raw in ANSWERS)
    for bad in (
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length : 1\r\n",
        b" x\r\n",
        b"a: \x00\r\n",
    ):
        assert next(requests_in(_POST.replace(b"Content-Type", bad + b"Content-Type")), None) is None
    for bad in (
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length : 1\r\n",
        b" x\r\n",
        b"a: \x00\r\n",
    ):
        assert reading(ANSWERS[0].replace(b"X-Kept", bad + b"X-Kept"), closed=True)[0] is None
    # White space before a colon is no fault of an answer (RFC 9112, 5.1), unless it comes from the proxy.
    blank = ANSWERS[0].replace(b"X-Kept", b"X-Blank \t: 1\r\nX-Kept")
    read = reading(blank, closed=True)[0]
    assert read is not None and read.values(b"x-blank") == [b"1"]
    with pytest.raises(Malformed):
        final_answer(blank, closed=True)
    assert next(requests_in(_POST.replace(b"Content-Type", b"X-Blank : 1\r\nContent-Type")), None) is None
