"""Money: whatever goes wrong, nothing is bought twice, and what a caller is told about its request is true.

Every fault at every point of the exchange, for every kind of request, however the renewal goes and whenever the proxy is
told to stop. What the upstream's ledger holds is compared with what the caller was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from itertools import product

import pytest

from tests.server.harness import EMAIL, PASSWORD, Answer, Caller, Running, Truncated, running_proxy, until
from tests.server.ledger import DOCUMENTED, GOOD, WELL, Fault, Ledger, Reply

UUID = "3b241101-e2bb-4255-8caf-4136c566a962"
LARGE = 200_000
PATIENCE = 40.0


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    `safe`: documented as harmless to repeat. `trusting`: neither that nor an order, so a rejection is taken at its word in
    the undocumented wordings too, and it is sent once more after one.
    """

    name: str
    line: str
    safe: bool = False
    size: int = 0  # of the body; 0: none
    chunked: bool = False
    override: bool = False
    trusting: bool = False

    @property
    def method(self) -> str:
        return self.line.partition(" ")[0]


KINDS = [
    Kind("get", "GET /orders/buy", safe=True),
    Kind("head", "HEAD /orders/buy", safe=True),
    Kind("cart", "POST /carts", safe=True, size=64),
    Kind("order", "POST /orders?checkout=condensed", size=64),
    Kind("payment", f"PUT /orders/{UUID}", size=64),
    Kind("streamed payment", f"PUT /orders/{UUID}", size=LARGE),
    Kind("streamed put", "PUT /wallets/5", size=LARGE, chunked=True),
    Kind("wallet", "PUT /wallets/5", size=64, trusting=True),
    Kind("overridden post", "POST /carts", size=64, override=True),
    Kind("overridden head", "HEAD /orders", override=True),
]

UNPROCESSED = Reply(400, DOCUMENTED)
VARIANT = Reply(401, b'{"message":["jwt expired"]}')
OTHER_VARIANT = Reply(400, b'{"message":"The token has expired"}')
BARE = Reply(400, b"", ())

REJECTING = [
    Fault("documented", reply=UNPROCESSED),
    Fault("documented before the body", reads="head", reply=UNPROCESSED),
    Fault("variant", reply=VARIANT),
    Fault("variant although processed", processes=True, reply=VARIANT),
    Fault("other variant although processed", processes=True, reply=OTHER_VARIANT),
    Fault("variant before the body, then processed", reads="head", processes=True, reply=VARIANT),
    Fault("bare 400", reply=BARE),
    Fault("bare 400 although processed", processes=True, reply=BARE),
    Fault("bare 401 although processed", processes=True, reply=replace(BARE, status=401)),
]
BREAKING = [
    Fault("reset at accept", reads="accept", ends="reset"),
    Fault("reset unread", reads="byte", ends="reset"),
    Fault("reset after the head", reads="head", ends="reset"),
    Fault("closed after the head", reads="head", ends="close"),
    Fault("reset unprocessed", ends="reset"),
    Fault("reset although processed", processes=True, ends="reset"),
    Fault("closed although processed", processes=True, ends="close"),
    Fault("half a head, reset", processes=True, reply=GOOD, sends="head", ends="reset"),
    Fault("half a head, closed", processes=True, reply=GOOD, sends="head", ends="close"),
    Fault("half a body, reset", processes=True, reply=GOOD, sends="body", ends="reset"),
    Fault("half a body, closed", processes=True, reply=GOOD, sends="body", ends="close"),
    Fault("half a rejection, reset", processes=True, reply=VARIANT, sends="body", ends="reset"),
    Fault("garbage", processes=True, sends=b"\x00\xffgarbage\r\n\r\n", ends="reset"),
    Fault("stalls", ends="stall"),
    Fault("stalls after the head", reads="head", ends="stall"),
    Fault("stalls although processed", processes=True, ends="stall"),
    Fault("stalls within the answer", processes=True, reply=GOOD, sends="body", ends="stall"),
]
DROPPED, STALLED = BREAKING[5], BREAKING[13]
ANSWERING = [
    WELL,
    Fault("well, before the body", reads="head", processes=True, reply=GOOD),
    Fault("500 unprocessed", reply=Reply(500, b"", ())),
    Fault("500 although processed", processes=True, reply=Reply(500, b"", ())),
    Fault(
        "503 of the edge", processes=True, reply=Reply(503, b"<html>", (b"Content-Type: text/html", b"Retry-After: 1"))
    ),
    Fault("401 of no token", reply=Reply(401, b'{"message":["Unauthorized"]}')),
    Fault("400 of the business", reply=Reply(400, b'{"message":["Insufficient funds"]}')),
    Fault(
        "closed after the answer", processes=True, reply=replace(GOOD, headers=(b"Connection: close",)), ends="close"
    ),
]


@dataclass(frozen=True)
class Case:
    """One request and all that happens to it."""

    kind: Kind
    faults: tuple[Fault, ...]
    renewal: str = "well"
    #: AdminAnswers to stop while the first attempt is held by the upstream; with so many seconds to end what is in flight.
    drain: float | None = None
    #: Whose session it is: "configured", a "caller"'s own, or "nobody"'s.
    account: str = "configured"

    def __str__(self) -> str:
        drain = "" if self.drain is None else f", stopping within {self.drain:g} s"
        faults = " then ".join(fault.name for fault in self.faults)
        return f"{self.kind.name}: {faults}; renewal {self.renewal}, {self.account}'s session{drain}"


@dataclass(frozen=True)
class AdminAnswers:
    """What the caller was told; `answer` is None when its connection ended before an answer had ended."""

    answer: Answer | None

    @property
    def code(self) -> str:
        """The code of the proxy's own errors, "" for an answer of CardCash."""
        own = self.answer is not None and (self.answer.value("proxy-status") or b"").startswith(
            b"cardcash-proxy; error="
        )
        if not own or self.answer is None:
            return ""
        # An error in answer to a HEAD has no body; its status tells the rest.
        return (
            self.answer.code
            if self.answer.body
            else {503: "unavailable", 504: "upstream_timeout"}.get(self.answer.status, "upstream_reset")
        )

    @property
    def sentence(self) -> str:
        if not self.code or self.answer is None or not self.answer.body:
            return ""
        sentence: str = self.answer.json["message"][0]
        return sentence.lower()

    def __str__(self) -> str:
        if self.answer is None:
            return "cut off"
        return f"{self.answer.status} {self.code} {self.sentence or self.answer.body[:60]!r}"


def broken(case: Case, told: AdminAnswers, ledger: Ledger, order: str) -> list[str]:
    """The rules of this file that what happened breaks."""
    done, last = ledger.processed[order], ledger.last(order)
    status = told.answer.status if told.answer is not None else 0
    again = told.answer is not None and told.answer.value("retry-after") is not None
    own = bool(told.code)
    theirs = told.answer if not own else None
    unknown = "may have been processed" in told.sentence
    may_be_twice = case.kind.safe or (case.kind.trusting and any(map(_is_variant, case.faults)))
    # What is harmless to repeat, or was refused for its token in so many words, may end as an error instead.
    replaceable = last is not None and (last.fault.reply == UNPROCESSED or (case.kind.safe and _is_variant(last.fault)))
    due = last is not None and last.written is not None and last.arrives and not replaceable
    rules = {
        "processed twice": done > 1 and not may_be_twice,
        "told to send again what was processed": own and (again or status == 503) and done and not case.kind.safe,
        "told that nothing was processed": "nothing was processed" in told.sentence and done,
        "told that nothing was sent": "nothing was sent" in told.sentence and last is not None,
        "an answer was not delivered": due and theirs is None,
        "the answer is not CardCash's": theirs is not None and (last is None or not _is(theirs, last.written, case)),
        "not told what became of it": own
        and status in (502, 504)
        and bool(told.sentence)
        and not (unknown or "nothing was sent" in told.sentence),
        "503 without Retry-After": own and status == 503 and not again,
        "502 or 504 with Retry-After": own and status in (502, 504) and again,
        "an error of another kind": own and status not in (502, 503, 504),
        "cut off before an answer had begun": told.answer is None and not any(fault.begins for fault in case.faults),
    }
    return [f"{rule} (processed {done} times; told: {told})" for rule, breaks in rules.items() if breaks]


def _is_variant(fault: Fault) -> bool:
    return fault.reply in (VARIANT, OTHER_VARIANT)


def _is(answer: Answer, reply: Reply | None, case: Case) -> bool:
    if reply is None:
        return False
    body = b"" if case.kind.method == "HEAD" else reply.body
    return (answer.status, answer.body) == (reply.status, body)


# Running one case


async def play(case: Case, number: int) -> tuple[list[str], int]:
    """Let it happen; returns the rules it breaks, and how many attempts there were."""
    order = f"order-{number}"
    async with Ledger() as ledger, _proxy(case, ledger) as proxy:
        serving = asyncio.create_task(proxy.proxy.run())
        fresh = case.faults[0].reads == "accept"
        await _first_call(case, proxy, fresh=fresh)
        if case.drain is not None:
            ledger.go_on.clear()
            ledger.reached = proxy.proxy.request_stop
        ledger.faults.extend(case.faults)
        ledger.renewal = case.renewal
        caller = await proxy.caller()
        asking = asyncio.create_task(_ask(caller, proxy, case.kind, order))
        try:
            if case.drain is not None:
                await until(lambda: proxy.proxy.server.draining or asking.done())
                ledger.go_on.set()
            async with asyncio.timeout(PATIENCE):
                told = await asking
        except TimeoutError:
            return [f"told nothing for {PATIENCE:g} s"], len(ledger.attempts)
        finally:
            proxy.proxy.request_stop()
            await caller.close()
            await serving
        return broken(case, told, ledger, order), len(ledger.attempts)


@contextlib.asynccontextmanager
async def _proxy(case: Case, ledger: Ledger, **more: str) -> AsyncIterator[Running]:
    login = {"LOGIN__EMAIL": EMAIL, "LOGIN__PASSWORD": PASSWORD} if case.account == "configured" else {}
    # Short only where it is to run out: else a busy machine turns an answer that is due into a time-out.
    stalls = any(fault.ends == "stall" for fault in case.faults)
    settings = {
        "UPSTREAM__RESPONSE_TIMEOUT": "5" if case.renewal == "stalls" else "1" if stalls else "20",
        "LIMITS__REPLAY_BODY": "16KiB",
        "DRAIN__TIMEOUT": f"{10 if case.drain is None else case.drain:g}",
        "LOG__LEVEL": "error",
    }
    async with running_proxy(f"http://127.0.0.1:{ledger.port}", **login, **{**settings, **more}) as proxy:
        yield proxy


async def _first_call(case: Case, proxy: Running, *, fresh: bool) -> None:
    """Have a session; and a connection in use, unless the fault is about a new one."""
    await until(lambda: proxy.proxy.keeper.current() is not None)
    if case.account == "caller":
        body = json.dumps({"customer": {"email": EMAIL, "password": PASSWORD}}).encode()
        answer = await proxy.ask("POST /customers/login", b"Content-Type: application/json", body=body)
        assert answer.status == 200
    if not fresh:
        assert (await proxy.ask("GET /merchants/sell")).status == 200


async def _ask(caller: Caller, proxy: Running, kind: Kind, order: str) -> AdminAnswers:
    headers = [b"X-Order: " + order.encode(), b"Content-Type: application/json"]
    body = json.dumps({"order": order, "pad": "x" * kind.size}).encode() if kind.size else None
    if kind.override:
        headers.append(b"X-HTTP-Method-Override: PUT")
    if kind.chunked and body is not None:
        headers.append(b"Transfer-Encoding: chunked")
        pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        data = proxy.request(kind.line, *headers) + framed
    else:
        data = proxy.request(kind.line, *headers, body=body)
    sending = asyncio.create_task(caller.send(data))  # an answer may come before all of it is out
    try:
        return AdminAnswers(await caller.answer(kind.method))
    except Truncated:
        return AdminAnswers(None)
    finally:
        sending.cancel()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await sending


async def none_is_broken(cases: Iterable[Case], *, at_once: int = 32) -> list[Case]:
    """Play them all; returns those in which there was a second attempt."""
    turn = asyncio.Semaphore(at_once)
    repeated: list[Case] = []
    lines: list[str] = []

    async def one(number: int, case: Case) -> None:
        async with turn:
            found, attempts = await play(case, number)
        lines.extend(f"{case}: {rule}" for rule in found)
        if attempts > 1:
            repeated.append(case)

    await asyncio.gather(*(one(number, case) for number, case in enumerate(cases)))
    assert not lines, "\n".join(lines)
    return repeated


def _name(fault: Fault) -> str:
    return fault.name


def _attempts(kind: Kind, fault: Fault, *more: tuple[Fault, ...]) -> list[tuple[Fault, ...]]:
    """A first attempt ends so; then `more`. After a reset only what is harmless is sent again: else there is no second."""
    return [(fault,), *(faults for faults in more if kind.safe or faults[0] is not DROPPED)]


# The tests


@pytest.mark.parametrize("fault", [*REJECTING, *BREAKING, *ANSWERING], ids=_name)
async def test_what_is_told_is_true_whatever_fails(fault: Fault) -> None:
    first = [Case(kind, (fault,)) for kind in KINDS]
    repeated = await none_is_broken(first)
    # A second attempt, if there is one, ends like the first, or without an answer.
    await none_is_broken(replace(case, faults=(fault, second)) for case in repeated for second in (fault, DROPPED))


@pytest.mark.parametrize("renewal", ["outage", "refused"])
@pytest.mark.parametrize("fault", REJECTING, ids=_name)
async def test_what_is_told_is_true_when_the_renewal_fails(fault: Fault, renewal: str) -> None:
    await none_is_broken(
        Case(kind, faults, renewal)
        for kind in KINDS
        for faults in _attempts(kind, fault, (DROPPED, fault), (REJECTING[0], fault))
    )


@pytest.mark.parametrize("renewal", ["stalls", "reset"])
@pytest.mark.timeout(120)
async def test_what_is_told_is_true_when_the_renewal_takes_its_time(renewal: str) -> None:
    cases = [Case(kind, (fault,), renewal) for kind, fault in product(KINDS, REJECTING)]
    await none_is_broken(cases, at_once=len(cases))


@pytest.mark.parametrize("fault", [*REJECTING, *BREAKING, *ANSWERING], ids=_name)
async def test_what_is_told_is_true_when_the_proxy_stops(fault: Fault) -> None:
    await none_is_broken(Case(kind, (fault,), drain=20) for kind in KINDS)


@pytest.mark.parametrize("fault", [*REJECTING, *BREAKING], ids=_name)
async def test_what_is_told_is_true_when_the_time_to_stop_is_over(fault: Fault) -> None:
    await none_is_broken(Case(kind, (fault,), renewal="stalls", drain=1) for kind in KINDS)


@pytest.mark.parametrize("account", ["caller", "nobody"])
@pytest.mark.parametrize("fault", REJECTING, ids=_name)
async def test_what_is_told_is_true_when_the_login_is_a_callers_own_or_there_is_none(
    fault: Fault, account: str
) -> None:
    await none_is_broken(
        Case(kind, faults, renewal, account=account)
        for kind, renewal in product(KINDS, ("well", "outage"))
        for faults in _attempts(kind, fault, (DROPPED, fault))
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.safe], ids=lambda kind: kind.name)
async def test_what_is_told_is_true_when_a_second_attempt_finds_no_free_connection(kind: Kind) -> None:
    case = Case(kind, (DROPPED,))
    scarce = {"UPSTREAM__MAX_CONNECTIONS": "1", "UPSTREAM__CONNECT_TIMEOUT": "0.5", "UPSTREAM__RESPONSE_TIMEOUT": "5"}
    async with Ledger() as ledger, _proxy(case, ledger, **scarce) as proxy:
        await _first_call(case, proxy, fresh=False)
        ledger.go_on.clear()
        ledger.faults.extend([DROPPED, STALLED])
        first = asyncio.create_task(_ask(await proxy.caller(), proxy, kind, "first"))
        await until(lambda: ledger.last("first"))
        second = asyncio.create_task(_ask(await proxy.caller(), proxy, KINDS[0], "second"))
        await until(lambda: proxy.proxy.guard.in_flight == 2)
        ledger.go_on.set()
        told = await first
        assert told.code in ("overloaded", "unavailable"), told  # else this test is about nothing
        assert broken(case, told, ledger, "first") == []
        await second
