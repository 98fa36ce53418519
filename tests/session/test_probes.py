"""One harmless call with a token, for all who doubt it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.attempts import Verdict
from proxy.core.dialect import Candidate
from proxy.core.token import Token
from proxy.session.cardcash_calls import SessionOutage, SessionTokenRejected
from proxy.session.ports import Policy
from proxy.session.probes import Probes
from tests.session.fakes import FakeCalls, FakeClock, House


class Doubted(FakeCalls):
    """Holds every call back until it is let go, and notes the paths."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.go = asyncio.Event()
        self.paths: list[str] = []

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        self.paths.append(path)
        await self.go.wait()
        return await super().keep_alive(token, path)

    def token(self, value: str = "one.") -> Token:
        return Token(value, self.clock.now(), 600)


@pytest.fixture
def calls() -> Doubted:
    return Doubted()


@pytest.fixture
def probes() -> Probes:
    return Probes(Policy(keepalive_path="/v3/wallets", deadline=0.05))


async def asked(probes: Probes, calls: Doubted, token: Token, how_many: int = 1) -> list[Verdict]:
    asking = [asyncio.create_task(probes.of(token, calls)) for _ in range(how_many)]
    await asyncio.sleep(0)
    calls.go.set()
    return [outcome.verdict for outcome in await asyncio.gather(*asking)]


async def test_one_call_on_the_path_of_the_settings_answers_all_who_ask(probes: Probes, calls: Doubted) -> None:
    assert await asked(probes, calls, calls.token(), 20) == [Verdict.ACCEPTED] * 20
    assert calls.paths == ["/v3/wallets"]


async def test_whoever_asks_later_or_of_another_token_gets_a_call_of_its_own(probes: Probes, calls: Doubted) -> None:
    one, other = calls.token(), calls.token("two.")
    first = asyncio.create_task(probes.of(one, calls))
    await asyncio.sleep(0)
    await asked(probes, calls, other)
    await first
    await asked(probes, calls, other)
    assert len(calls.paths) == 3


async def test_a_newer_token_in_the_answer_is_handed_on(probes: Probes, calls: Doubted) -> None:
    calls.go.set()
    calls.on_keep_alive.append("newer.")
    outcome = await probes.of(calls.token(), calls)
    assert outcome.newer is not None
    assert (outcome.verdict, outcome.newer.value) == (Verdict.ACCEPTED, "newer.")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [(SessionTokenRejected("no"), Verdict.REJECTED), (SessionOutage("down"), Verdict.UNKNOWN)],
)
async def test_a_rejection_is_told_from_a_call_that_failed(
    probes: Probes, calls: Doubted, answer: Exception, verdict: Verdict
) -> None:
    calls.on_keep_alive.append(answer)
    assert await asked(probes, calls, calls.token()) == [verdict]


async def test_a_call_that_takes_too_long_says_nothing(probes: Probes, calls: Doubted) -> None:
    assert (await probes.of(calls.token(), calls)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("how", ["stopped", "closed", "a bug"])
async def test_whoever_waits_when_it_ends_is_told_nothing_but_is_told(
    calls: Doubted, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: None)
    probes = Probes(Policy(deadline=9))
    waiting = asyncio.create_task(probes.of(calls.token(), calls))
    await asyncio.sleep(0)
    if how == "stopped":
        probes.stop()
    elif how == "closed":
        await probes.close()
    else:
        calls.on_keep_alive.append(ValueError("a bug"))
        calls.go.set()
    assert (await waiting).verdict is Verdict.UNKNOWN


# What the keeper makes of it


async def test_a_newer_token_that_a_probe_brings_is_held(house: House) -> None:
    token = await house.keeper.token()
    house.calls.on_keep_alive.append("newer.")
    assert await house.keeper.probe(token) is Verdict.ACCEPTED
    assert house.held.value == "newer."


async def test_but_not_in_the_place_of_one_that_came_meanwhile(house: House) -> None:
    token = await house.keeper.token()
    house.calls.on_keep_alive.append("newer.")
    house.calls.meanwhile = lambda: house.keeper.offer(Candidate("harvest.", 900), sent_with=token)
    assert await house.keeper.probe(token) is Verdict.ACCEPTED
    assert house.held.value == "harvest."


async def test_a_token_that_has_been_replaced_is_not_tried(house: House) -> None:
    token = await house.keeper.token()
    await house.keeper.renew(rejected=token)
    assert await house.keeper.probe(token) is Verdict.REJECTED
    assert house.calls.keep_alives == 0
