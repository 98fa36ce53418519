"""How long to wait after failures in a row; sleeps nowhere, and gets any randomness from its caller."""

from __future__ import annotations


def backoff(failures: int, *, first: float, cap: float) -> float:
    """Seconds of the pause after `failures` (1, 2, …) in a row: `first`, doubling, at most `cap`."""
    return min(cap, first * 2.0 ** min(failures - 1, 32))


def full_jitter(failures: int, *, first: float, cap: float, fraction: float) -> float:
    """Seconds before the next try inside one call: a random `fraction` (0…1) of the capped backoff.

    The jitter comes after the cap, so the cap holds.
    """
    return backoff(failures, first=first, cap=cap) * fraction
