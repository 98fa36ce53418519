"""A stateful CardCash stand-in for tests and demos. Imports nothing else of `proxy`: an oracle must not share code
with what it judges."""

from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.simulator import Simulator

__all__ = ["Simulator", "SimulatorSettings"]
