"""The metrics of all processes of a proxy as those of one. Pure: what each has goes in, what is exposed comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

_PREFIX: Final = "cardcash_proxy_"
#: Gauges of what all processes share, or have alike; the others are summed.
_HIGHEST: Final = frozenset(
    (
        *(_PREFIX + "session_expiry_timestamp_seconds", _PREFIX + "session_last_success_timestamp_seconds"),
        *(_PREFIX + "session_latched", _PREFIX + "build_info", "python_info"),
        _PREFIX + "session_alone",
    )
)
#: Alerts read the age of the counters from it.
START_TIME: Final = "process_start_time_seconds"
_LOWEST: Final = frozenset((START_TIME, "process_max_fds", _PREFIX + "store_up"))

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


def silent_workers(number: int) -> Metric:
    """Count the workers that say nothing; each of the others has said that it is up."""
    gauge = Metric(f"{_PREFIX}workers", "Worker processes; a single process is one that is up.", "gauge")
    gauge.add_sample(gauge.name, {"state": "up"}, 0)
    gauge.add_sample(gauge.name, {"state": "down"}, number)
    return gauge


def exposed(parts: Iterable[Iterable[Metric]], accept: str) -> tuple[bytes, str]:
    """Write the sum of all parts in the format the scraper accepts; returns body and content type."""
    encoder, content_type = choose_encoder(accept)
    families = total(parts)
    # All that is asked of a registry there.
    return encoder(cast("CollectorRegistry", SimpleNamespace(collect=lambda: families))), content_type
