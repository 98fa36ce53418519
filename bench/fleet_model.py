"""A herd of proxies on one Redis, as a model: who holds the right to renew, who waits, and who leaves with the news.

Event by event: Redis serves one script after the other; whoever asks for the right is told of a newer token, or gets it, or
is told that another has it and asks again after a wait that doubles. The numbers are the product's own and Redis 7's on one
core of this machine's kind; `make fleet` prints it beside the real thing.
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


@dataclass(frozen=True, slots=True)
class Herd:
    """What became of it: session calls, seconds until the last proxy had the token, scripts, and their seconds."""

    calls: int
    last: float
    operations: int
    busy: float


def predicted(replicas: int, *, work: float, seed: int = 1) -> Herd:
    """Let all proxies want a new token within 10 ms of each other; `work` is the seconds a session and a login take."""
    dice = random.Random(seed)
    events = [(dice.uniform(0.0, 0.01), number, FIRST_WAIT) for number in range(replicas)]
    heapq.heapify(events)
    free_at = last = 0.0
    operations = calls = 0
    holder_done: float | None = None
    while events:
        now, number, wait = heapq.heappop(events)
        free_at = max(now + ROUND_TRIP / 2, free_at) + SCRIPT
        operations += 1
        told = free_at + ROUND_TRIP / 2
        if holder_done is None:
            calls += 1
            # It makes the token, then saves it and gives the right back: two scripts more.
            holder_done = told + work + ROUND_TRIP + 2 * SCRIPT
            operations += 2
            last = max(last, holder_done)
        elif free_at >= holder_done:
            last = max(last, told)
        else:
            heapq.heappush(events, (told + wait * dice.uniform(0.5, 1.5), number, min(LONGEST_WAIT, wait * 2)))
    return Herd(calls, last, operations, operations * SCRIPT)
