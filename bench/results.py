"""The numbers of a run: what was measured, by scenario, peer and metric, one value a round; and the goals.

Pure: no processes, no clock. report.py shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.measure import Summary

#: Names in the tables: the proxy that is measured, and the upstream without any.
OURS, DIRECT = "cardcash-proxy", "direct"
#: Where two of our workers are measured: a single one.
ONE_WORKER = "one worker"


@dataclass(slots=True)
class Results:
    """Values in the order they were measured, so that the same place in two lists is the same round."""

    values: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, scenario: str, peer: str, **metrics: float) -> None:
        """Note one round."""
        of_peer = self.values.setdefault(scenario, {}).setdefault(peer, {})
        for metric, value in metrics.items():
            of_peer.setdefault(metric, []).append(value)

    def of(self, scenario: str, peer: str, metric: str) -> list[float]:
        """Return every round's value; empty when it was not measured."""
        return self.values.get(scenario, {}).get(peer, {}).get(metric, [])

    def summary(self, scenario: str, peer: str, metric: str) -> Summary | None:
        """Sum up the rounds; None when it was not measured."""
        values = self.of(scenario, peer, metric)
        return Summary.of(values) if values else None

    def ratio(self, scenario: str, metric: str, peer: str) -> Summary | None:
        """Compare us with a peer, round by round: what slows both down for a while leaves their ratio alone."""
        pairs = zip(self.of(scenario, OURS, metric), self.of(scenario, peer, metric), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs > 0]
        return Summary.of(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to reach: `measured` finds the number, None when this run has none; at most `limit`, or at least."""

    what: str
    limit: float
    unit: str
    measured: Callable[[Results], Summary | None]
    at_least: bool = False

    def verdict(self, results: Results) -> tuple[str, Summary | None]:
        """Return "met", "missed" or "not measured", and the number."""
        found = self.measured(results)
        if found is None:
            return "not measured", None
        met = found.median >= self.limit if self.at_least else found.median <= self.limit
        return "met" if met else "missed", found


def _ratio(what: str, scenario: str, peer: str, limit: float) -> Goal:
    text = f"{what}: CPU per request, of {peer}'s"
    return Goal(text, limit, "x", lambda results: results.ratio(scenario, "cpu_us", peer))


def _absolute(what: str, scenario: str, metric: str, limit: float, unit: str) -> Goal:
    return Goal(what, limit, unit, lambda results: results.summary(scenario, OURS, metric))


def _memory(results: Results) -> Summary | None:
    """Find the scenario that took the most memory."""
    found: Iterable[Summary | None] = (
        results.summary(scenario, OURS, "rss_mb") for scenario in results.values if scenario != "workers"
    )
    return max((one for one in found if one is not None), key=lambda one: one.median, default=None)


GOALS = (
    Goal("GET: instructions, of aiohttp's", 0.33, "x", lambda r: r.ratio("instructions", "k_instructions", "aiohttp")),
    _absolute("GET: instructions", "instructions", "k_instructions", 185.0, " k"),
    *(
        _ratio(what, scenario, peer, limit)
        for what, scenario in (("small answers", "small"), ("POST 512 B", "post"))
        for peer, limit in (("nginx", 5.0), ("caddy", 0.65), ("aiohttp", 0.4))
    ),
    _ratio("330 kB list", "list", "nginx", 1.0),
    _absolute("ready after", "start", "ready_s", 0.7, " s"),
    _absolute("memory after 32 busy connections", "small", "rss_mb", 60.0, " MB"),
    Goal("memory, the most after any scenario", 60.0, " MB", _memory),
    # Flat: what the kernel's and our own buffers of one connection may hold, and no more.
    _absolute("100 MB stream: memory grown by", "stream", "grown_mb", 5.0, " MB"),
    _absolute("a reader that stops", "stopped", "kb_each", 256.0, " kB"),
    _absolute("open loop 200/s: added p99", "open", "added_p99_ms", 3.0, " ms"),
    Goal("two workers: requests/s, of one's", 1.8, "x", lambda r: r.ratio("workers", "rps", ONE_WORKER), at_least=True),
    _absolute("revoked under 1000 callers: session calls", "burst", "session_calls", 1.0, ""),
    _absolute("revoked under 1000 callers: rejections that callers see", "burst", "rejected_answers", 0.0, ""),
)
