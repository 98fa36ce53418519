"""A network and a view of the disk of one's own, from the kernel alone: what a container engine would make for a pod.

Needs root, unshare, nsenter, setpriv (util-linux) and ip (iproute2).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.client
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.house.pages import ROOT

USER = 10001
_CLONE_NEWNET = 0x40000000
_TOOLS = ("unshare", "nsenter", "setpriv", "ip", "mount")


@functools.cache
def missing() -> str:
    """Say what stands against sandboxes here; empty: nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces"
    if absent := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(absent)}"
    tried = "ip link add a0 type veth peer name b0 && ip link add b1 type bridge && mount -t tmpfs t /mnt"
    command = ["unshare", "--net", "--mount", "sh", "-c", tried]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"namespaces cannot be made here: {made.stderr.strip()}" if made.returncode else ""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Network:
    """A network namespace, and threads that live in it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._threads = ThreadPoolExecutor(8, initializer=self._enter)

    def _enter(self) -> None:
        # A thread can be elsewhere than its process; os.setns() is there from Python 3.12 on.
        with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def ask(
        self,
        method: str,
        host: str,
        port: int,
        path: str,
        *,
        body: bytes | None = None,
        timeout: float = 20.0,
        **headers: str,
    ) -> Answer:
        """Send one request from within; raises OSError or HTTPException."""

        def asked() -> Answer:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
            with contextlib.closing(connection):
                connection.request(
                    method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
                )
                answer = connection.getresponse()
                return Answer(answer.status, answer.headers, answer.read())

        return self._threads.submit(asked).result()

    def close(self) -> None:
        self._threads.shutdown()


def _hold(*what: str) -> subprocess.Popen[bytes]:
    """Keep namespaces alive: they end with the standard input of their holder, so with this process at the latest."""
    *namespaces, command = what
    holder = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", f"{command} && echo up && exec cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n", f"not made: {what}"
    return holder


def _let_go(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()


class Node(Network):
    """The machine as its pods or containers see it: a bridge between them, and the addresses it has there itself."""

    def __init__(self, addresses: Sequence[str] = ("10.42.0.1/24", "fd42::1/64")) -> None:
        commands = ["ip link set lo up", "ip link add name br0 type bridge", "ip link set br0 up"]
        commands += [f"ip addr add {address} dev br0 {_quickly(address)}" for address in addresses]
        self._holder = _hold("--net", " && ".join(commands))
        super().__init__(self._holder.pid)
        self._plugs = 0

    def plug(self) -> str:
        """Name the next end of a cable in the bridge."""
        self._plugs += 1
        return f"pod{self._plugs}"

    def close(self) -> None:
        super().close()
        _let_go(self._holder)


class Sandbox:
    """One set of namespaces. `addresses` are those of its eth0, whose other end is at `node`.

    The disk is read-only but for `/run`, `/srv`, `/var/lib` and `/mnt`, which are empty, in memory, and gone at the end.
    """

    def __init__(
        self,
        folder: Path,
        addresses: Sequence[str] = ("10.42.0.5/24", "fd42::5/64"),
        *,
        node: Node | None = None,
        hosts: Mapping[str, str] | None = None,
        shell: str = "",
    ) -> None:
        self.folder = folder
        self.addresses = [address.partition("/")[0] for address in addresses]
        folder.mkdir(parents=True, exist_ok=True)
        names = {"localhost": "127.0.0.1", **(hosts or {})}
        (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        self.node = node or Node()
        self._own = None if node else self.node
        plug = self.node.plug()
        commands = [
            "ip link set lo up",
            f"ip link add eth0 type veth peer name {plug} netns {self.node.pid}",
            "ip link set eth0 up",
            *(f"ip addr add {address} dev eth0 {_quickly(address)}" for address in addresses),
            "for place in /run /srv /var/lib /mnt; do mount -t tmpfs -o mode=755 sandbox $place; done",
            *_reachable(),
            f"mount --bind {shlex.quote(str(folder / 'hosts'))} /etc/hosts",
            "mkdir -p /mnt/bin",
            f"ln -s {shlex.quote(str(Path(sys.executable).with_name('cardcash-proxy')))} /mnt/bin",
            # No link: a Python finds its packages by the path it is called by.
            f"printf '#!/bin/sh\\nexec %s \"$@\"' {shlex.quote(sys.executable)} > /mnt/bin/python",
            "chmod 755 /mnt/bin/python",
            shell or "true",
            "mount -o remount,bind,ro /",
        ]
        self._holder = _hold("--net", "--mount", " && ".join(commands))
        self.pid = self._holder.pid
        self._inside("--net", self.node.pid, f"ip link set {plug} master br0 up")
        self.within = Network(self.pid)
        self._running: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def _inside(namespaces: str, pid: int, command: str) -> None:
        subprocess.run(["nsenter", "--target", str(pid), *namespaces.split(), "sh", "-c", command], check=True)

    def shell(self, command: str) -> None:
        """Run a command as root within."""
        self._inside("--net --mount", self.pid, command)

    def log(self, name: str = "log") -> str:
        """What was written to a log so far."""
        return (self.folder / name).read_text()

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: str,
        *,
        user: int = USER,
        groups: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program within as that user, without any privilege; what it writes is appended to the log's file."""
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                self._words(command, env, user, groups), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._running.append(process)
        return process

    def run(self, command: Sequence[str], env: Mapping[str, str], *, user: int = USER) -> tuple[int, str]:
        """Run a program within to its end, as `exec` does; exit code and what it wrote."""
        done = subprocess.run(
            self._words(command, env, user, ()), capture_output=True, text=True, timeout=70, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def _words(self, command: Sequence[str], env: Mapping[str, str], user: int, groups: Sequence[int]) -> list[str]:
        rights = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        as_whom = [f"--reuid={user}", f"--regid={user}"]
        as_whom.append(f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups")
        image = {"PATH": "/mnt/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        variables = [f"{name}={value}" for name, value in {**image, **env}.items()]
        return [
            *("nsenter", "--target", str(self.pid), "--net", "--mount", "--wd=/", "setpriv", *as_whom, *rights),
            *("env", "-i", *variables, *command),
        ]

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.within.close()
        _let_go(self._holder)
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _quickly(address: str) -> str:
    """No waiting for the proof that nobody else has this address."""
    return "nodad" if ":" in address else ""


def _reachable() -> Iterator[str]:
    """Show an unprivileged user the Python and the sources, wherever they are: through folders that are closed to others."""
    needed = dict.fromkeys(str(path) for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT))
    closed: dict[str, list[str]] = {}
    for path in needed:
        shut = [str(above) for above in reversed(Path(path).parents) if not above.stat().st_mode & 0o001]
        if shut:
            closed.setdefault(shut[0], []).append(path)
    for folders, (folder, paths) in enumerate(closed.items()):
        kept = {path: f"/mnt/kept/{folders}-{number}" for number, path in enumerate(paths)}
        for path, place in kept.items():
            yield f"mkdir -p {place} && mount --bind {shlex.quote(path)} {place}"
        yield f"mount -t tmpfs -o mode=755 sandbox {shlex.quote(folder)}"
        for path, place in kept.items():
            yield f"mkdir -p {shlex.quote(path)} && mount --bind {place} {shlex.quote(path)}"


def until(is_so: Callable[[], Any], why: Callable[[], object], *, seconds: float = 40.0) -> Any:
    """Look until it is so; what cannot be reached yet is not so."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if found := is_so():
                return found
        assert time.monotonic() < end, why()
        time.sleep(0.02)
