"""A short soak: what `make soak` does with millions, with thousands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.processes import Cores
from bench.soak import Plan, soak


@pytest.mark.skipif(sys.platform != "linux", reason="costs are read from Linux's /proc")
async def test_nothing_is_left_of_requests_connections_and_renewals(tmp_path: Path) -> None:
    anywhere = frozenset(os.sched_getaffinity(0))
    plan = Plan(requests=6_000, connections=1_200, renewals=20, growth_mb=4.0)
    report = await soak(plan, tmp_path, Cores(anywhere, anywhere), lambda _: None)
    assert report.faults == [], report.text()
    assert len(report.samples) == 10 + 5 + 4 + 2
