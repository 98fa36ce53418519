"""The metrics of several processes as those of one. Pure: what each has goes in, what is exposed comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from prometheus_client import Metric

_PREFIX: Final = "cardcash_proxy_"
#: Gauges of what all processes share, or have alike; the others are summed.
_HIGHEST: Final = frozenset(
    (
        *(_PREFIX + "session_expiry_timestamp_seconds", _PREFIX + "session_last_success_timestamp_seconds"),
        *(_PREFIX + "session_latched", _PREFIX + "build_info", "python_info"),
        _PREFIX + "session_alone",
    )
)
_LOWEST: Final = frozenset(("process_start_time_seconds", "process_max_fds", _PREFIX + "store_up"))

Families = list[Metric]


def written(families: Iterable[Metric]) -> list[Any]:
    """Write families as JSON can hold them."""
    return [
        [family.name, family.documentation, family.type, [[one.name, one.labels, one.value] for one in family.samples]]
        for family in families
    ]


def read(content: Iterable[Any]) -> Families:
    """Read families that were written so."""
    families = []
    for name, documentation, kind, samples in content:
        families.append(Metric(name, documentation, kind))
        for sample_name, labels, value in samples:
            families[-1].add_sample(sample_name, labels, math.nan if value is None else value)
    return families


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


def silent_workers(number: int) -> Metric:
    """Count the workers that say nothing; each of the others has said that it is up."""
    gauge = Metric(f"{_PREFIX}workers", "Worker processes; a single process is one that is up.", "gauge")
    gauge.add_sample(gauge.name, {"state": "up"}, 0)
    gauge.add_sample(gauge.name, {"state": "down"}, number)
    return gauge
