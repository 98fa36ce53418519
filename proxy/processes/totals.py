"""The metrics of several processes as those of one. Pure: what is scraped goes in, what is exposed comes out."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

_PREFIX: Final = "cardcash_proxy_"
#: Gauges of what all processes share, or have alike; the others are summed.
_HIGHEST: Final = frozenset(
    (
        *(_PREFIX + "session_expiry_timestamp_seconds", _PREFIX + "session_last_success_timestamp_seconds"),
        *(_PREFIX + "session_latched", _PREFIX + "build_info", "python_info"),
    )
)
_LOWEST: Final = frozenset(("process_start_time_seconds", "process_max_fds"))

Families = list[Metric]


def parsed(text: str) -> Families:
    """Read the text format of Prometheus."""
    return list(text_string_to_metric_families(text))


def total(parts: Iterable[Iterable[Metric]]) -> Families:
    """Add up families of the same name, sample by sample; what only some have is taken as it is."""
    totals: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for part in parts:
        for family in part:
            into = values.setdefault(family.name, {})
            totals.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                if key not in into:
                    into[key] = sample.value
                elif family.name in _HIGHEST:
                    into[key] = max(into[key], sample.value)
                elif family.name in _LOWEST:
                    into[key] = min(into[key], sample.value)
                else:
                    into[key] += sample.value
    for name, samples in values.items():
        for (sample_name, labels), value in samples.items():
            totals[name].add_sample(sample_name, dict(labels), value)
    return list(totals.values())


def counted(families: Iterable[Metric]) -> Families:
    """Return what only ever grows: it was counted, whatever has become of the process."""
    return [family for family in families if family.type in ("counter", "histogram")]


def session_counts(families: Iterable[Metric]) -> dict[str, int]:
    """Return `renewals` and `harvests` as `/status` counts them."""
    counts = {"renewals": 0.0, "harvests": 0.0}
    for family in families:
        for sample in family.samples:
            of = sample.labels
            if sample.name == f"{_PREFIX}session_renewals_total":
                if of["reason"] != "store" and of["result"] in ("ok", "login_refused"):
                    counts["renewals"] += sample.value
            elif sample.name == f"{_PREFIX}session_harvests_total" and of["result"] == "adopted":
                counts["harvests"] += sample.value
    return {name: int(count) for name, count in counts.items()}


class Ledger:
    """What the processes said last, and what those that ended had counted: no counter goes backwards over a restart.

    A process that ends in order says its last word. What a killed one counted after it was last asked is lost, as it is
    when a single process is killed.
    """

    def __init__(self) -> None:
        self._said: dict[int, Families] = {}
        self._left: Families = []

    def said(self, pid: int, families: Families) -> None:
        """Take what a living process says."""
        self._said[pid] = families

    def ended(self, pid: int, families: Families | None = None) -> None:
        """Keep what a process had counted; `families` is its last word, if it had one."""
        said = self._said.pop(pid, [])
        self._left = total([self._left, counted(said if families is None else families)])

    @property
    def left(self) -> Families:
        """What processes that have ended had counted."""
        return self._left

    def parts(self, answered: Set[int]) -> list[Families]:
        """Return what is to be summed; of a process that did not answer now only what it had counted."""
        living = [said if pid in answered else counted(said) for pid, said in self._said.items()]
        return [*living, self._left]


def workers_gauge(up: int, down: int) -> Metric:
    """Return how many workers there are, beside what each says of itself: `up` are those that said nothing."""
    gauge = Metric(f"{_PREFIX}workers", "Worker processes.", "gauge")
    gauge.add_sample(gauge.name, {"state": "up"}, up)
    gauge.add_sample(gauge.name, {"state": "down"}, down)
    return gauge
