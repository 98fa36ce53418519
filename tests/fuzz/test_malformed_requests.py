"""1,632 raw requests of ten public test suites against the real process; a verdict each, and every byte sent up checked."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from tests.fuzz.corpus import Row, allowed, needs, requests, sample, timeout
from tests.fuzz.grammar import requests_in
from tests.fuzz.lane import Outcome, ProxyLane, proxy_lane

#: What does not get the verdict of the corpus, and why that is right; each is checked to differ still.
DEVIATIONS = {
    "cowboy-absolute_form_reject_invalid_port_0": "a valid port by RFC 3986, and no authority ever chooses the upstream",
    "cowboy-reject_absolute_form_different_host": "two allowed hosts; RFC 9112, 3.2.2: Host is ignored then, not compared",
    "desync-guardian-rfc-compliant-11": "its target has a fragment: 400 (config/README.md)",
    "desync-guardian-rfc-compliant-13": "its request line has no target",
    "llhttp-connection-84": "contested: HTTP/1.0 ends its connection after one request; what follows is not read",
}
#: The same for what only the guards refused.
BEHIND_GUARDS = {
    "llhttp-connection-297": "contested: the same after `Connection: close`",
    "llhttp-connection-347": "the same",
}


def _fault(row: Row, outcome: Outcome, leaked: Sequence[bytes]) -> str | None:
    """Judge what came of a row by the corpus' own rules, and by what holds for all."""
    if outcome.wrong or leaked:
        return f"{outcome.wrong} {leaked}"
    statuses = outcome.statuses
    if not statuses and not outcome.closed:
        return "neither an answer nor an end"
    if any(status >= 500 for status in statuses):
        return f"failed: {outcome.raw!r}"
    if row.verdict == "must_reject" and (outcome.reached or (statuses and statuses[0] < 400)):
        return f"not rejected: {statuses}, {outcome.requests}"
    if row.verdict == "must_accept" and (not statuses or statuses[0] >= 400):
        return f"not accepted: {statuses}"
    if row.most is not None and outcome.reached > row.most:
        return f"more requests than {row.most}: {outcome.requests}"
    return None


def _marked(raw: bytes, marker: bytes) -> bytes:
    """Put a field with the marker behind the first line, where there is one that is followed by a field."""
    return re.sub(rb"\A([^\r\n]+\r\n)(?=[A-Za-z])", rb"\1X-Marker: %b\r\n" % marker, raw)


async def _run(lane: ProxyLane, rows: Sequence[Row], *, marker: bytes = b"") -> dict[str, str]:
    faults = {}
    for row in rows:
        raw = _marked(row.raw, marker) if marker else row.raw
        heads = [message.start[0] == b"HEAD" for message in requests_in(raw)]
        outcome = await lane.play(raw, heads=heads, expect=row.verdict == "must_accept")
        leaked = lane.leaks(outcome.raw, *([marker] if marker else []))
        if fault := _fault(row, outcome, leaked):
            faults[row.name] = fault
    return faults


def _unexplained(faults: dict[str, str], rows: Sequence[Row], known: dict[str, str]) -> dict[str, str]:
    expected = known.keys() & {row.name for row in rows}
    agreeing = dict.fromkeys(expected - faults.keys(), "no longer differs: take it off the list")
    return {name: fault for name, fault in faults.items() if name not in expected} | agreeing


@needs("malformed-requests.json")
@timeout()
async def test_requests_get_their_verdict_behind_ordinary_guards() -> None:
    rows = sample(requests(), 3, always=list(DEVIATIONS))
    async with proxy_lane(
        CALLERS__ALLOWED_HOSTS=allowed([row for row in requests() if row.verdict == "must_accept"])
    ) as lane:
        assert _unexplained(await _run(lane, rows), rows, DEVIATIONS) == {}
        await lane.all_well()


@needs("malformed-requests.json")
@timeout()
async def test_requests_get_their_verdict_with_every_guard_open_and_leave_no_trace() -> None:
    known = DEVIATIONS | BEHIND_GUARDS
    rows = sample(requests(), 3, always=list(known))
    marker = secrets.token_hex(8).encode()
    async with proxy_lane(
        CALLERS__ALLOWED_HOSTS=allowed(requests()),
        CALLERS__ALLOWED_ORIGINS="http://localhost,https://example.com",
        LOG__LEVEL="debug",
    ) as lane:
        assert _unexplained(await _run(lane, rows, marker=marker), rows, known) == {}
        await lane.all_well(marker)
