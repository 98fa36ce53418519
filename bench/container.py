"""A process as a container engine runs it, without an engine: `python -m bench.container ROOT GROUP DESCRIPTOR COMMAND …`.

Below ROOT, which it sees as a read-only disk; as user 10001, without capabilities and without a way to any; with processes
of its own, and the machine's network; in the control group GROUP (a folder, or "-"). When it begins is written to
DESCRIPTOR. To be run as root by `unshare`, as `Container` does. The environment is what it was given.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench import measure
from bench.processes import installed

USER: Final = 10001
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_MS_RDONLY, _MS_NOSUID, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 2, 32, 4096, 16384


class Container:
    """A running one. `with Container(…) as it:` ends it, too."""

    def __init__(
        self, root: Path, words: Sequence[str], environ: Mapping[str, str], *, group: Path | None = None
    ) -> None:
        reader, writer = os.pipe()
        # A file: a pipe that nobody reads would fill the log's buffer, and so its memory.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        inner = [sys.executable, "-m", "bench.container", str(root), str(group or "-"), str(writer), *words]
        self.process = subprocess.Popen(
            [installed("unshare") or "unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", *inner],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            pass_fds=(writer,),
            cwd=Path(__file__).parents[1],
        )
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            #: When its command began, by the monotonic clock, and the CPU that was used up to then.
            self.began, self.used_before = map(float, told.readline().split() or ("nan", "nan"))
        #: Its process id, as seen from outside.
        self.pid = measure.family(self.process.pid)[-1]

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        self._output.close()

    def output(self) -> str:
        """Wait for its end; returns what it wrote."""
        self.process.wait()
        self._output.seek(0)
        return self._output.read().decode("utf-8", "replace")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait; returns its exit code."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
            self.process.wait()
        return self.process.returncode


def main(words: Sequence[str]) -> None:
    """Become the container's first process."""
    root, group, descriptor, *wanted = words
    system = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(system, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    def mount(source: str, target: str, kind: str | None, flags: int) -> None:
        call("mount", source.encode(), target.encode(), None if kind is None else kind.encode(), flags, None)

    mount(root, root, None, _MS_BIND)
    mount("proc", f"{root}/proc", "proc", _MS_NOSUID)
    mount("/dev", f"{root}/dev", None, _MS_BIND | _MS_REC)
    mount("none", root, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
    if group != "-":
        Path(group, "cgroup.procs").write_text("0")
    os.chroot(root)
    os.chdir("/")
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.environ.pop("LC_CTYPE", None)  # Python's own addition
    os.set_inheritable(int(descriptor), False)
    os.write(int(descriptor), f"{time.monotonic()} {time.process_time()}\n".encode())
    os.execvpe(wanted[0], wanted, os.environ)  # noqa: S606 - the point of it


if __name__ == "__main__":
    main(sys.argv[1:])
