"""187 raw answers that public test suites feed to parsers and clients, as answers of CardCash, against the real process."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from tests.fuzz.corpus import answers, needs, timeout
from tests.fuzz.grammar import Malformed, Message, Unfinished, final_answer
from tests.fuzz.lane import ProxyLane, proxy_lane

#: Fields whose values belong to one connection, to the session, or to the proxy.
_NOT_COMPARED = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    *(b"content-length", b"x-request-id", b"proxy-status", b"set-cookie", b"set-cookie2", b"proxy-authenticate"),
    *(b"authorization", b"x-token-exp-seconds", b"x-session-id", b"x-cc-app", b"proxy-authentication-info"),
}


def mended(raw: bytes) -> bytes:
    """Give a head that the suite keeps as text its line ends, and its empty line."""
    head, end, body = raw.partition(b"\n\n")
    if not end:
        head, end, body = raw.partition(b"\r\n\r\n")
    return re.sub(rb"\r?\n", b"\r\n", head).rstrip(b"\r\n") + b"\r\n\r\n" + body


def reading(raw: bytes, *, closed: bool, head: bool = False) -> tuple[Message | None, bytes]:
    """Read an upstream's answer strictly: the message or None where there is none, and what stands behind it."""
    try:
        return final_answer(raw, closed=closed, head=head, of_upstream=True)
    except (Malformed, Unfinished):
        return None, b""


def fields_down(message: Message) -> Counter[tuple[bytes, bytes]]:
    """List the fields that the caller must get as they are."""
    named = {name.strip().lower() for value in message.values(b"connection") for name in value.split(b",")}
    return Counter(field for field in message.fields if field[0].lower() not in _NOT_COMPARED | named)


def difference(expected: Message | None, got: Message | None) -> str | None:
    """Compare what CardCash said, by the strict reading, with what the caller got: the same, or visibly broken."""
    if got is None or (got.status in (502, 504) and b"error=" in b"".join(got.values(b"proxy-status"))):
        return None if expected is None else f"broken for the caller: {got}"
    if expected is None:
        return f"made whole for the caller: {got}"
    if not [value for name, value in fields_down(expected) if name.lower() == b"date"]:
        # RFC 9110, 6.6.1: where CardCash says no date, the proxy does, once.
        added = got.values(b"date")
        if len(added) != 1:
            return f"dated {len(added)} times: {got}"
        expected = replace(expected, fields=[*expected.fields, (b"Date", added[0])])
    same = got.status == expected.status and got.start[2] == expected.start[2] and got.body == expected.body
    if not same or fields_down(got) != fields_down(expected):
        return f"changed: {expected} became {got}"
    return None


async def exchange(lane: ProxyLane, raw: bytes, *, method: bytes, closed: bool) -> tuple[Message | None, list[str]]:
    """Let the upstream answer one request with `raw`; what the caller got of it, and what was wrong whatever it is."""
    lane.upstream.respond = lambda request: (raw, closed)
    asked = method + b" /v3/odd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    outcome = await lane.play(asked, heads=[method == b"HEAD"], to_the_end=True)
    # Broken answers may be cut anywhere; a whole one has nothing behind it.
    wrong = [fault for fault in outcome.wrong if not fault.startswith("half an answer")]
    if len(outcome.answers) > 1 or (outcome.answers and outcome.rest):
        wrong.append(f"more than one answer: {outcome.raw!r}")
    if method == b"POST" and len(outcome.requests) != 1:
        wrong.append(f"sent {len(outcome.requests)} times")
    return (outcome.answers[0] if outcome.answers else None), wrong + [repr(word) for word in lane.leaks(outcome.raw)]


@needs("odd-responses.json")
@timeout()
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
async def test_answers_come_down_whole_and_alike_or_visibly_broken(method: bytes) -> None:
    faults = {}
    async with proxy_lane(UPSTREAM__RESPONSE_TIMEOUT="1") as lane:
        for name, raw in answers():
            for variant, data in (("", raw), (" mended", mended(raw))):
                if variant and data == raw:
                    continue
                for closed in (True, False):
                    expected, _ = reading(data, closed=closed, head=method == b"HEAD")
                    if expected is None and not closed:
                        continue  # it would only wait for more
                    got, wrong = await exchange(lane, data, method=method, closed=closed)
                    if fault := "; ".join(wrong) or difference(expected, got):
                        faults[f"{name}{variant}"] = f"closed={closed}: {fault}"
        assert faults == {}
        await lane.all_well()
