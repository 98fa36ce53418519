"""Proxies in every plight that an alert is for, and in the plights beside it; each is a fleet of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.simulator import Simulator, SimulatorSettings
from tests.house.prometheus import MINUTE, Prometheus, free_port, prometheus
from tests.server.harness import Running, Truncated, running_proxy, until
from tests.whole.processes import Process, fetch, serving

ACCOUNT = {"LOGIN__EMAIL": "partner@example.com", "LOGIN__PASSWORD": "demo-password"}
LOGIN = json.dumps({"customer": {"email": "partner@example.com", "password": "demo-password"}}).encode()
JSON = b"Content-Type: application/json"
#: Alerts, with the fleet that each fires for.
PROVOKED = {
    "CardcashProxyDown": "down",
    "CardcashRefusedCredentials": "refused",
    "CardcashNoSession": "nosession",
    "CardcashRequestsFail": "unreachable",
    "CardcashOrderOutcomeUnknown": "sundry",
    "CardcashOrderAbandoned": "sundry",
    "CardcashRenewalsFailing": "failing",
    "CardcashIdentityLost": "sundry",
    "CardcashUpstreamErrors": "unreachable",
    "CardcashUpstreamSlow": "slow",
    "CardcashOverloaded": "slow",
    "CardcashErrorRate": "sundry",
    "CardcashStoreDown": "appid",
    "CardcashWorkerDown": "workers",
    "CardcashProxyRestarts": "restarts",
    "CardcashCallersRefused": "sundry",
}


@dataclass
class Seen:
    """What came of it."""

    #: Each alert, by its name and the job, and then by its labels: labels and annotations.
    alerts: dict[tuple[str, str], dict[str, dict[str, Any]]] = field(default_factory=dict)
    #: Alerts that fired at any time, with their jobs.
    ever: set[tuple[str, str]] = field(default_factory=set)
    #: What was asked of the Prometheus in the end, and how many series with data came back.
    panels: dict[str, int] = field(default_factory=dict)
    #: Values of the variables of the dashboard.
    choices: dict[str, list[str]] = field(default_factory=dict)
    #: Exit code and output of what the alert about the refused login says to run.
    renewal: tuple[int | None, str] = (None, "")
    #: That alert was over after it.
    over: bool = False
    #: The highest share of failed requests ever recorded, of any fleet.
    highest: float = 0.0


class Fleets:
    """The fleets; `targets` is what a Prometheus is told of them."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.targets: list[dict[str, str]] = []
        self._stack = stack
        self._traffic: set[asyncio.Task[None]] = set()
        #: Lets CardCash accept the login that it refused.
        self.made_right: Callable[[], None] = lambda: None
        #: Where a CardCash is that nothing goes wrong with.
        self.origin = ""

    def target(self, job: str, pod: str, address: str) -> None:
        """Let it be scraped."""
        self.targets.append({"__address__": address, "job": job, "namespace": f"{job}-ns", "pod": pod})

    async def simulator(self, **settings: Any) -> Simulator:
        """Start a CardCash."""
        one = Simulator(SimulatorSettings(wallet_delay=0.0, **settings))
        await one.start()
        self._stack.push_async_callback(one.stop)
        return one

    async def proxy(self, job: str, origin: str, **settings: str) -> Running:
        """Start one more of a fleet, in this process."""
        one = await self._stack.enter_async_context(running_proxy(origin, **{"APP_ID": "demo-app-id", **settings}))
        self.target(job, f"{job}-{len(self.targets)}", f"127.0.0.1:{one.admin_port}")
        return one

    def traffic(self, ask: Callable[[], Awaitable[object]], *, callers: int = 1) -> None:
        """Go on asking, once a second."""

        async def go_on() -> None:
            while True:
                with contextlib.suppress(Truncated, ConnectionError):
                    await ask()
                await asyncio.sleep(1)

        for _ in range(callers):
            task = asyncio.create_task(go_on())
            self._traffic.add(task)
            self._stack.callback(task.cancel)


async def watched(folder: Path, panels: dict[str, str], choices: dict[str, str]) -> Seen:
    """Bring it all about, and tell what the Prometheus said."""
    seen = Seen()
    async with contextlib.AsyncExitStack() as stack:
        fleets = Fleets(stack)
        began = time.time()
        provoke = await _set_up(fleets, stack)
        one = await stack.enter_async_context(prometheus(folder, fleets.targets))
        async with asyncio.timeout(90):
            while len(await one.query("max_over_time(up[60s]) == 1")) < len(fleets.targets) - 2:
                await asyncio.sleep(0.1)
        tasks = [asyncio.create_task(act()) for act in provoke]
        tasks.append(asyncio.create_task(_restarts(fleets, one)))
        try:
            end = time.monotonic() + 30 * MINUTE / 1000
            while time.monotonic() < end and not PROVOKED.items() <= seen.alerts.keys():
                for alert in await one.firing():
                    labels = alert["labels"]
                    known = seen.alerts.setdefault((labels["alertname"], labels["job"]), {})
                    sayings = known.setdefault(json.dumps(labels), alert)
                    # While a scrape is missed, a text knows less.
                    if len(str(alert["annotations"])) >= len(str(sayings["annotations"])):
                        known[json.dumps(labels)] = alert
                await asyncio.sleep(0.3)
            await _ask_panels(one, seen, panels, choices, began)
            await _renew_as_told(one, seen, fleets)
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
        for fault in done:
            if isinstance(fault, Exception):
                raise fault
        ever = await one.query('last_over_time(ALERTS{alertstate="firing"}[10m])')
        seen.ever = {(alert["metric"]["alertname"], alert["metric"]["job"]) for alert in ever}
    return seen


async def _ask_panels(
    one: Prometheus, seen: Seen, panels: dict[str, str], choices: dict[str, str], began: float
) -> None:
    for name, expression in panels.items():
        found = await one.query_range(expression, start=began, end=time.time())
        seen.panels[name] = sum(any(value != "NaN" for _, value in series["values"]) for series in found)
    for name, selector in choices.items():
        seen.choices[name] = await one.values(name, selector)
    (highest,) = await one.query("max(max_over_time(cardcash_proxy:failed:ratio5m[10m]))")
    seen.highest = float(highest["value"][1])


async def _renew_as_told(one: Prometheus, seen: Seen, fleets: Fleets) -> None:
    """The login is right again at CardCash; do what the alert says, in each of the pods that it names."""
    (alert,) = seen.alerts["CardcashRefusedCredentials", "refused"].values()
    command = alert["annotations"]["action"].split(" -- ")[1].split("`")[0].split()
    fleets.made_right()
    for pod in alert["annotations"]["where"].split():
        (target,) = [target for target in fleets.targets if target["pod"] == pod]
        assert command[0] == "cardcash-proxy"
        process = await Process.start(*command[1:], CARDCASH_ADMIN__LISTEN=target["__address__"])
        seen.renewal = (await process.ended(), process.text)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5 * MINUTE / 1000):
            while any(alert["labels"] == fired["labels"] for fired in await one.firing()):
                await asyncio.sleep(0.2)
            seen.over = True


async def _restarts(fleets: Fleets, one: Prometheus) -> None:
    """Start a process again and again, each time when it was seen."""
    (target,) = [target for target in fleets.targets if target["job"] == "restarts"]
    seen: set[str] = set()
    for number in range(1, 5):
        async with serving(fleets.origin, ADMIN__LISTEN=target["__address__"]):
            while len(seen) < number:
                found = await one.query('process_start_time_seconds{job="restarts"}')
                seen.update(series["value"][1] for series in found)
                await asyncio.sleep(0.1)


Act = Callable[[], Coroutine[Any, Any, None]]


async def _set_up(fleets: Fleets, stack: contextlib.AsyncExitStack) -> list[Act]:
    """Start all of them; what is returned is done when they were seen at peace."""
    good = await fleets.simulator()
    fleets.origin = good.url
    fleets.target("another", "another-1", f"127.0.0.1:{_nobody(stack)}")  # something else that is down
    return [
        *await _processes(fleets, stack, good),
        *await _session(fleets, _nobody(stack)),
        await _at_peace(fleets),
        await _sundry(fleets),
        await _failing(fleets),
        await _far(fleets),
    ]


async def _processes(fleets: Fleets, stack: contextlib.AsyncExitStack, good: Simulator) -> list[Act]:
    down, still_there = await fleets.proxy("down", good.url), await fleets.proxy("down", good.url)
    fleets.traffic(lambda: still_there.ask("GET /carts"))
    fleets.target("restarts", "restarts-1", f"127.0.0.1:{free_port()}")
    several = await stack.enter_async_context(serving(good.url, WORKERS="3"))
    fleets.target("workers", "workers-1", several.admin)

    async def stop_one() -> None:
        await down.proxy.__aexit__(None, None, None)

    async def hang() -> None:
        """Let one of two hang at any time: each is ended after 15 s, sooner than the alert comes on a busy machine."""
        hung: set[int] = set()
        try:
            for place in itertools.cycle((1, 2)):
                told = json.loads((await fetch("GET", f"http://{several.admin}/status"))[1])["workers"][place]
                if told["state"] == "up":
                    os.kill(told["pid"], signal.SIGSTOP)
                    hung.add(told["pid"])
                await asyncio.sleep(8)
        finally:
            for pid in hung:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return [stop_one, hang]


def _nobody(stack: contextlib.AsyncExitStack) -> int:
    """A port that is held and never listened at: one that is only free may be somebody's a moment later."""
    held = stack.enter_context(socket.socket())
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    return port


async def _session(fleets: Fleets, closed: int) -> list[Act]:
    """No session, for one cause or another; at `closed` nobody listens."""
    strict = await fleets.simulator(accounts={"partner@example.com": "another-password"})
    fleets.made_right = lambda: strict.configure(accounts={"partner@example.com": "demo-password"})
    refused = [await fleets.proxy("refused", strict.url, **ACCOUNT) for _ in range(2)]
    fleets.traffic(lambda: refused[0].ask("GET /merchants/buy"))
    store = f"redis://127.0.0.1:{closed}/0"
    unknown = await fleets.proxy("appid", strict.url, APP_ID="unknown-app-id", SESSION__STORE=store)
    fleets.traffic(lambda: unknown.ask("GET /carts"))
    broken = await fleets.simulator()
    broken.fault("fail", path="/v3/session", status=503, html=True, times=-1)
    without = await fleets.proxy("nosession", broken.url)
    fleets.traffic(lambda: without.ask("GET /carts"), callers=3)
    return []


async def _at_peace(fleets: Fleets) -> Act:
    """Callers make mistakes, tokens are revoked, an order that is read is lost: nobody has to get up."""
    simulator = await fleets.simulator()
    one = await fleets.proxy("healthy", simulator.url, **ACCOUNT)
    for line in ("GET /merchants/buy", "GET /nothing/here", "GET /carts"):
        fleets.traffic(lambda line=line: one.ask(line), callers=3)  # type: ignore[misc]

    async def act() -> None:
        simulator.revoke_all()
        simulator.fault("reset", path="/v3/orders/123456", method="GET", when="after_body", times=-1)
        told = await one.ask("GET /orders/123456")
        assert told.status == 502, told
        simulator.fault("delay", path="/v3/orders/buy", seconds=20)
        await _hang_up(one, "GET /orders/buy")
        await one.ask("GET /carts", host=b"evil.example")

    return act


async def _sundry(fleets: Fleets) -> Act:
    """Much at once, and nothing of it has to do with the rest."""
    simulator = await fleets.simulator(session_answer="existing")
    simulator.fault("fail", path="/v3/merchants/buy", status=500, times=-1)
    one = await fleets.proxy("sundry", simulator.url)
    fleets.traffic(lambda: one.ask("GET /merchants/buy"))
    fleets.traffic(lambda: one.ask("GET /merchants/sell"), callers=2)
    fleets.traffic(lambda: one.ask("GET /carts", host=b"evil.example"), callers=2)

    async def act() -> None:
        simulator.fault("reset", path="/v3/orders", method="POST", when="after_body")
        assert (await one.ask("POST /orders", JSON, body=b"{}")).status == 502
        simulator.fault("delay", path="/v3/orders", seconds=20)
        await _hang_up(one, "POST /orders")
        assert (await one.ask("POST /customers/login", JSON, body=LOGIN)).status == 200
        simulator.revoke_all()
        await one.ask("GET /orders/buy")

    return act


async def _failing(fleets: Fleets) -> Act:
    """A session that ends soon, and whose renewals bring nothing new."""
    simulator = await fleets.simulator(token_ttl=14 * MINUTE / 1000)
    one = await fleets.proxy("failing", simulator.url)

    async def act() -> None:
        simulator.configure(session_answer="existing")
        for _ in range(3):
            await fetch("POST", f"http://127.0.0.1:{one.admin_port}/session/renew")

    return act


async def _far(fleets: Fleets) -> Act:
    """A CardCash that is slow, and one that is gone; no order was ever sent to that one."""
    late = await fleets.simulator()
    late.fault("delay", path="/v3/carts", seconds=6.0, times=-1)
    slow = await fleets.proxy("slow", late.url, LIMITS__IN_FLIGHT="1")
    fleets.traffic(lambda: slow.ask("GET /carts"), callers=4)
    gone = await fleets.simulator()
    unreachable = await fleets.proxy("unreachable", gone.url)

    async def act() -> None:
        await unreachable.ask("GET /carts")
        await gone.stop()
        fleets.traffic(lambda: unreachable.ask("POST /orders", JSON, body=b"{}"))
        fleets.traffic(lambda: unreachable.ask("GET /merchants/buy"))

    return act


async def _hang_up(one: Running, line: str) -> None:
    """Ask, and leave before the answer."""
    before = one.sample("requests_in_flight") or 0
    caller = await one.caller()
    await caller.send(one.request(line, JSON, body=b"{}"))
    await until(lambda: (one.sample("requests_in_flight") or 0) > before)
    await asyncio.sleep(0.2)
    caller.reset()
