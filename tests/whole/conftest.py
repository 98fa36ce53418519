"""The simulator in the tests' own loop; the proxy is a process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxy.simulator import Simulator, SimulatorSettings


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulator on a free port, whose wallet fills at once."""
    simulator = Simulator(SimulatorSettings(wallet_delay=0.0))
    await simulator.start()
    yield simulator
    await simulator.stop()
