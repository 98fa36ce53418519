"""Processes that are measured or that help: started on chosen cores, awaited, and surely ended.

Owns ports, cores, environments and signals. Knows nothing of what the processes do.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure

#: Below the range that kernels give to outgoing connections (32768 up), so that none of those is ever in the way.
PORTS = range(22000, 26000)


class BenchError(Exception):
    """Something is missing or broken; its text is one line for people."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where to run what: the measured process has one core of its own."""

    measured: frozenset[int]
    others: frozenset[int]

    @classmethod
    def chosen(cls) -> Cores:
        """Take the first core we may use for the measured process, the rest for all else; one core is shared."""
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(rest or {first}))

    @property
    def alone(self) -> bool:
        """Say whether the measured process has its core for itself."""
        return not self.measured & self.others


@contextmanager
def _running_on(cores: frozenset[int]) -> Iterator[None]:
    """Let what is started now inherit these cores; set from outside, threads already begun would keep the old ones."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


#: Ports that were given away, and may not be listened on yet.
_given: set[int] = set()


def free_port() -> int:
    """Find a port of loopback that nobody listens on, and that was not given away before."""
    for port in random.sample(PORTS, len(PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe:
            # As servers do: a port that only has connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise BenchError(f"no free port between {PORTS.start} and {PORTS.stop - 1}")


def raise_file_limit() -> None:
    """Allow as many descriptors as the system lets us: a thousand callers are two thousand of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def installed(command: str) -> str | None:
    """Find a command, also where daemons live: /usr/sbin is not on the path of every user."""
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin")


def clean_environment(**more: str) -> dict[str, str]:
    """Return our environment without settings of the proxy, plus `more`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")} | more


@dataclass(slots=True)
class Server:
    """A running server process; `output` has what it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        cores: frozenset[int],
        output: Path,
        environ: Mapping[str, str] | None = None,
    ) -> Server:
        """Start it in a session of its own, so that Ctrl-C in the terminal reaches us only. Raises BenchError."""
        began = time.perf_counter()
        try:
            with output.open("wb") as out, _running_on(cores):
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=dict(environ or clean_environment()),
                    start_new_session=True,
                )
        except OSError as error:
            raise BenchError(f"cannot start {name}: {error.strerror}: {command[0]}") from None
        return cls(name, process, output, began)

    @property
    def pids(self) -> list[int]:
        """Itself and its workers."""
        return measure.family(self.process.pid)

    async def answers(self, port: int, path: str, *, seconds: float = 20.0) -> float:
        """Wait for the first 200 on `path`; return the seconds since its start. Raises BenchError."""
        while (taken := time.perf_counter() - self.began) < seconds:
            if self.process.poll() is not None:
                break
            if await is_good(port, path):
                return time.perf_counter() - self.began
            # A fiftieth of the shortest start-up there is.
            await asyncio.sleep(0.001)
        said = self.output.read_text(errors="replace").strip().splitlines()
        why = f"ended with code {self.process.poll()}" if self.process.poll() is not None else "did not get ready"
        raise BenchError(f"{self.name} {why} in {taken:.1f} s; it said: {said[-1] if said else 'nothing'}")

    def stop(self) -> None:
        """End it: first politely, after 5 s for certain."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in self.pids[::-1]:
                    os.kill(pid, 9)
                self.process.wait()


async def is_good(port: int, path: str) -> bool:
    """Say whether `path` is answered 200 now."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % (path.encode(), port))
        return (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
