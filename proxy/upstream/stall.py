"""For how long an exchange has waited for its own caller: to read on, or to send on."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

#: Bytes of a body that count as a move of the caller that sends it.
_MOVING: Final = 1024


class Stall:
    """What had moved when the caller was last seen to hold the exchange up, and since when it has not.

    Counts anew after every KiB of a body, so that nobody holds a connection by a byte now and then, and where that was
    not seen from the first look: it may say too little, never too much. Times are the loop's seconds.
    """

    __slots__ = ("_mark", "since")

    def __init__(self) -> None:
        #: Bytes that wait to be read, or KiB that were sent, as a negative number; None: it did not hold anything up.
        self._mark: int | None = None
        self.since = inf

    def begin(self, now: float, *, sent: int) -> None:
        """Begin with an exchange, of whose request so many bytes are sent."""
        self._mark, self.since = -(sent // _MOVING), now

    def paused(self, now: float, unread: int) -> None:
        """Begin to wait for a reader."""
        self._mark, self.since = unread, now

    def over(self) -> None:
        """The reader has caught up."""
        self._mark = None

    def sent(self, total: int, clock: Callable[[], float]) -> None:
        """Note that the caller has sent on."""
        if (mark := -(total // _MOVING)) != self._mark:
            self._mark, self.since = mark, clock()

    def looked(self, now: float, *, unread: int | None = None, sent: int | None = None) -> float:
        """Look: so much waits to be read, or the next after so much is waited for, or neither; return for how long."""
        mark = unread if sent is None else -(sent // _MOVING)
        if mark is None or mark != self._mark:
            self._mark, self.since = mark, now
        return now - self.since
