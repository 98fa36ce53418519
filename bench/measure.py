"""What a process costs, read from Linux's /proc: CPU time, memory, descriptors, threads; and medians of it.

Owns /proc and the arithmetic. Knows nothing of what is measured or why.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")  # per second; 100 nearly everywhere, too coarse for a short round


def family(pid: int) -> list[int]:
    """List `pid` and its descendants: nginx serves in a worker, not in the process that was started."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Sum user and system time of these processes, all their threads included."""
    return sum(_cpu_of(pid) for pid in pids)


def _cpu_of(pid: int) -> float:
    try:
        # Nanoseconds on a CPU; absent where the kernel was built without scheduler statistics.
        tasks = (_PROC / str(pid) / "task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, ValueError, IndexError):
        fields = _stat(pid)
        return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / _TICK


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (a name may hold spaces); None: it is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def memory_mb(pids: Iterable[int], what: str = "VmRSS") -> float:
    """Sum resident memory in MB (10^6 bytes); "VmHWM" for the most there ever was. Shared pages count each time."""
    return sum(_status(pid, what) for pid in pids) * 1024 / 1e6


def threads(pid: int) -> int:
    """Count the threads of one process."""
    return _status(pid, "Threads")


def _status(pid: int, what: str) -> int:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(what + ":")), 0)


def forget_peak(pids: Iterable[int]) -> None:
    """Set VmHWM back to what is resident now (proc(5), clear_refs)."""
    for pid in pids:
        try:
            (_PROC / str(pid) / "clear_refs").write_text("5")
        except OSError:
            continue  # a locked-down container: the peak is then the one since the start


def descriptors(pid: int) -> int:
    """Count the open descriptors of one process."""
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())


def transfers(pid: int) -> int:
    """Count read and write system calls so far, the ones that move bytes; 0 where the kernel does not count them."""
    try:
        lines = (_PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("syscr:", "syscw:")))


@dataclass(frozen=True, slots=True)
class Summary:
    """What several rounds came to."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Sum up at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of them lie, by the nearest rank; of none: 0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
