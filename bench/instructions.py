"""Instructions of a request, counted by callgrind in user space: repeatable to 2 %, whatever else the machine does.

Owns valgrind: how a server is started under it, and how its counters are reset and read while it runs. Nothing is counted
before the first `count`, so that the start costs no more time than it must, and is not in the figures.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.load import Ask, KeptLines
from bench.processes import BenchError, installed
from bench.servers import Peer

#: Requests before the first round, so that what is remembered is remembered; and of one round.
_WARM_UP, _REQUESTS = 100, 400


def missing() -> str:
    """Say why nothing can be counted here; empty: it can."""
    return "" if installed("valgrind") and installed("vgdb") else "valgrind is not installed"


def wrapper(folder: Path) -> tuple[str, ...]:
    """Return what stands before the command of a server whose instructions are counted; dumps go to `folder`."""
    out = f"--callgrind-out-file={folder}/callgrind.%p"
    return ("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", out)


class Counter:
    """Counts for a server that was started behind `wrapper(folder)`, over connections that are kept."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self._peer = peer
        self._folder = folder
        self._lines = KeptLines(peer.port)

    async def begin(self, ask: Ask, *, connections: int = 32) -> None:
        """Connect, and ask so often that what is remembered is remembered."""
        self._tell("instrumentation", "on")
        await self._lines.open(connections)
        await self._load(ask, _WARM_UP)

    async def count(self, ask: Ask, *, requests: int = _REQUESTS) -> float:
        """Return the instructions of one request, over one round. Raises BenchError."""
        self._tell("zero")
        await self._load(ask, requests)
        self._tell("dump")
        # callgrind names the dumps of a process PID.1, PID.2 …
        dumps = [file for pid in self._peer.pids for file in self._folder.glob(f"callgrind.{pid}.*")]
        total = sum(map(_total, dumps))
        for file in dumps:
            file.unlink()
        if not total:
            raise BenchError(f"callgrind counted nothing for {self._peer.name}")
        return total / requests

    def close(self) -> None:
        """Disconnect."""
        self._lines.close()

    async def _load(self, ask: Ask, requests: int) -> None:
        tally = await self._lines.ask(ask, requests)
        if tally.bad or tally.requests != requests:
            raise BenchError(f"{self._peer.name} under callgrind: {tally.bad} of {requests} answers were not 2xx")

    def _tell(self, *words: str) -> None:
        """Give an order to the server."""
        for pid in self._peer.pids:
            done = subprocess.run(
                [installed("vgdb") or "vgdb", f"--pid={pid}", *words],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode:
                raise BenchError(f"vgdb cannot reach {self._peer.name}: {done.stderr.strip()[-200:]}")


def _total(dump: Path) -> int:
    """Read the sum of a dump: `totals:` and what was counted since the counters were zeroed."""
    lines = dump.read_text(errors="replace").splitlines()
    return next((int(line.split()[1]) for line in reversed(lines) if line.startswith("totals:")), 0)
