"""The scenarios by name: what each is called in the table, what runs it, and which number it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from bench import callers, scenarios
from bench.scenarios import LIST, POST, SMALL, Rig


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. `about` is the metric whose spread is shown and whose ratio to ours is taken; empty: none."""

    title: str
    run: Callable[[Rig], Awaitable[None]]
    about: str = "cpu_us"


SCENARIOS = {
    "start": Scenario("Start-up: process to first good answer (ours: /readyz)", scenarios.start_up, "ready_s"),
    "instructions": Scenario(
        "GET 1 kB JSON, 32 connections, under callgrind", scenarios.instructions, "k_instructions"
    ),
    "small": Scenario("GET 1 kB JSON, 32 connections", partial(scenarios.closed, scenario="small", ask=SMALL)),
    "post": Scenario("POST 512 B, 32 connections", partial(scenarios.closed, scenario="post", ask=POST)),
    "list": Scenario("GET 330 kB list, 32 connections", partial(scenarios.closed, scenario="list", ask=LIST)),
    "tls": Scenario(
        "GET 1 kB JSON, 32 connections, upstream over TLS",
        partial(scenarios.closed, scenario="tls", ask=SMALL, tls=True),
    ),
    "c1": Scenario("GET 1 kB JSON, 1 connection", partial(scenarios.closed, scenario="c1", ask=SMALL, connections=1)),
    "c256": Scenario(
        "GET 1 kB JSON, 256 connections", partial(scenarios.closed, scenario="c256", ask=SMALL, connections=256)
    ),
    "stream": Scenario("100 MB stream, at full speed and to a reader that stops for 0.5 s", scenarios.stream, "cpu_ms"),
    "stopped": Scenario("90 readers of 100 MB that begin and stop", scenarios.stopped, "kb_each"),
    "open": Scenario("GET 1 kB JSON, 200 requests a second at random moments", scenarios.steady, "added_p99_ms"),
    "workers": Scenario("Two workers and one, each with 0.4 of a core", scenarios.workers, "rps"),
    "burst": Scenario("1000 callers at once, token revoked; upstream (simulator) 40 ms away", callers.burst, "burst_s"),
    "gain": Scenario(
        "An app 40 ms and TLS away: connects, makes a session, calls; direct and through the proxy",
        callers.gain,
        "first_ms",
    ),
}
