"""A herd of proxies on one Redis, as a model: who holds the right to renew, who waits, and who leaves with the news.

Event by event: Redis serves one script after the other; whoever asks for the right is told of a newer token, or gets it, or
is told that another has it and asks again after a wait that doubles. The numbers are the product's own and Redis 7's on one
core of this machine's kind. `make fleet` compares it with herds of several sizes and two speeds of CardCash.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Final

#: Seconds: one script on the server, the way there and back, the first and the longest wait between two tries.
SCRIPT: Final = 25e-6
ROUND_TRIP: Final = 1e-3
FIRST_WAIT: Final = 0.02
LONGEST_WAIT: Final = 0.25
#: The model is wrong where the real herd is beyond this many times what it says.
_FACTOR: Final = 2.0


@dataclass(frozen=True, slots=True)
class Herd:
    """What became of it: session calls, seconds until the last proxy had the token, tries to renew, Redis's seconds."""

    calls: int
    last: float
    tries: int
    busy: float


def predicted(replicas: int, *, work: float, spread: float = 0.01, seed: int = 1) -> Herd:
    """Let all proxies want a new token within `spread` seconds; `work` is what a session and a login take."""
    dice = random.Random(seed)
    events = [(dice.uniform(0.0, spread), number, FIRST_WAIT) for number in range(replicas)]
    heapq.heapify(events)
    free_at = last = 0.0
    tries = calls = 0
    holder_done: float | None = None
    while events:
        now, number, wait = heapq.heappop(events)
        free_at = max(now + ROUND_TRIP / 2, free_at) + SCRIPT
        tries += 1
        told = free_at + ROUND_TRIP / 2
        if holder_done is None:
            calls += 1
            # It makes the token, then saves it; that it gives the right back is one script more.
            holder_done = told + work + ROUND_TRIP + 2 * SCRIPT
            last = max(last, holder_done)
        elif free_at >= holder_done:
            last = max(last, told)
        else:
            heapq.heappush(events, (told + wait * dice.uniform(0.5, 1.5), number, min(LONGEST_WAIT, wait * 2)))
    return Herd(calls, last, tries, (tries + 2 * calls) * SCRIPT)


@dataclass(frozen=True, slots=True)
class Real:
    """A herd that really ran, and what it ran on: `calm` is what this machine takes when every caller asks once."""

    replicas: int
    latency: float
    calm: float
    calls: int
    last: float
    tries: float

    def model(self) -> Herd:
        """Predict it: callers are told of the rejection as fast as this machine can, and the calls wait behind them."""
        own = max(0.01, self.calm - self.latency)
        return predicted(self.replicas, work=2 * self.latency + own, spread=own)

    def is_as_predicted(self) -> bool:
        """Say whether the model holds, within a factor."""
        model = self.model()
        return self.calls == model.calls and all(
            1 / _FACTOR <= real / expected <= _FACTOR
            for real, expected in ((self.last, self.last_predicted()), (self.tries, model.tries))
        )

    def last_predicted(self) -> float:
        """Predict the last caller's answer: CardCash's rejection, the token, and once more the answer for all."""
        return self.latency + self.model().last + self.calm


def compare(herds: list[Real]) -> list[str]:
    """Write herds beside what the model says of them."""
    lines = [f"{'herd':34} {'session calls':>15} {'last caller s':>17} {'tries to renew, each':>23}"]
    for herd in herds:
        model = herd.model()
        name = f"{herd.replicas} proxies, CardCash takes {herd.latency:g} s"
        each = f"{model.tries / herd.replicas:.1f} / {herd.tries / herd.replicas:.1f}"
        mark = "" if herd.is_as_predicted() else "  ← the model is wrong"
        lines.append(
            f"{name:34} {f'{model.calls} / {herd.calls}':>15} {f'{herd.last_predicted():.2f} / {herd.last:.2f}':>17} "
            f"{each:>23}{mark}"
        )
    return lines


def tell_larger(latency: float) -> list[str]:
    """Write what the model says of herds that do not fit on one machine."""
    lines = [f"{'proxies':>8} {'session calls':>14} {'last served s':>14} {'tries each':>11} {'Redis busy s':>13}"]
    for replicas in (50, 500, 2000, 10_000):
        herd = predicted(replicas, work=2 * latency)
        each = herd.tries / replicas
        lines.append(f"{replicas:8} {herd.calls:14} {herd.last:14.2f} {each:11.1f} {herd.busy:13.2f}")
    return lines
