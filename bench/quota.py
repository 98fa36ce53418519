"""A share of a core for a process, where the kernel and our rights allow it (cgroups, version 1 or 2).

What scales over processes shows only while each has as much CPU alone as with others beside it: with two workers on the
two cores of a small machine the load and the upstream would take theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

#: Where version 1 and version 2 have the limit, its file, and how it is written.
_KINDS: Final = (
    (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", "{quota}"),
    (Path("/sys/fs/cgroup"), "cpu.max", "{quota} {period}"),
)
_PERIOD: Final = 100_000  # µs, the kernel's default


@contextmanager
def limited(share: float, name: str = "") -> Iterator[Path | None]:
    """Make a control group that gets at most `share` of a core, and yield its folder; None where that cannot be done."""
    kind = next((kind for kind in _KINDS if (kind[0] / "cgroup.procs").exists()), None)
    group: Path | None = None
    if kind is not None:
        base, file, text = kind
        with suppress(OSError):
            made = base / f"bench-{os.getpid()}{name}"
            made.mkdir()
            (made / file).write_text(text.format(quota=int(share * _PERIOD), period=_PERIOD))
            group = made
    try:
        yield group
    finally:
        if group is not None:
            with suppress(OSError):
                for member in (group / "cgroup.procs").read_text().split():
                    (group.parent / "cgroup.procs").write_text(member)
                group.rmdir()


@contextmanager
def shares(pids: Sequence[int], share: float) -> Iterator[bool]:
    """Give each process and its threads at most `share` of a core; says False where that cannot be done."""
    done = True
    with ExitStack() as groups:
        for pid in pids:
            group = groups.enter_context(limited(share, f"-{pid}"))
            try:
                if group is not None:
                    (group / "cgroup.procs").write_text(str(pid))
            except OSError:
                group = None
            done = done and group is not None
        yield done
