"""Real Redis servers for tests: each with a free port and a folder of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import redis
import trustme


def _version() -> int:
    if WHERE is None:
        return 0
    said = subprocess.run([WHERE, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"v=([0-9]+)", said)
    assert found is not None, said
    return int(found[1])


#: The program of the server; it can be a Sentinel too.
WHERE = os.environ.get("TEST_REDIS") or shutil.which("redis-server") or shutil.which("valkey-server")
#: The first number of its version.
VERSION = _version()
#: Seconds for a server to start, or a group to agree.
PATIENCE = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(what: Callable[[], Any], why: str) -> Any:
    """Look until it is so; what cannot be reached yet is not so."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(redis.RedisError, OSError, KeyError, IndexError):
            if found := what():
                return found
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.02)


class Server:
    """One redis-server, or a Sentinel; `start` it, again after a `kill` too."""

    def __init__(self, folder: Path, *options: str, tls: Tls | None = None, sentinel: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.options = options
        self.tls = tls
        self.sentinel = sentinel
        #: As whom the tests themselves talk to it.
        self.login: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}"

    def start(self, *, until: Callable[[redis.Redis], Any] = lambda client: client.ping()) -> Server:
        port = ("--port", "0", "--tls-port", str(self.port)) if self.tls else ("--port", str(self.port))
        common = (*port, "--bind", "127.0.0.1", "--dir", str(self.folder), "--logfile", str(self.folder / "log"))
        assert WHERE is not None
        if self.sentinel:
            config = self.folder / "sentinel.conf"
            config.write_text(self.sentinel)  # Sentinel rewrites it, so each has its own
            command = [WHERE, str(config), *common, *(self.tls.options if self.tls else ()), "--sentinel"]
        else:
            quiet: tuple[str, ...] = ("--save", "", "--appendonly", "no")
            if VERSION >= 7:  # before, nothing was protected
                quiet += ("--enable-debug-command", "yes", "--enable-protected-configs", "yes")
            command = [WHERE, *common, *quiet, *(self.tls.options if self.tls else ()), *self.options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client() as client:
            wait_for(lambda: until(client), f"{command[0]} did not start: {self.folder / 'log'}")
        return self

    def client(self) -> redis.Redis:
        """A connection of the test's own."""
        extra: dict[str, Any] = dict(self.login)
        if self.tls:
            extra |= {"ssl": True, "ssl_ca_certs": str(self.tls.ca)}
        return redis.Redis(
            port=self.port, decode_responses=True, socket_timeout=2, protocol=2, driver_info=None, **extra
        )

    def command(self, *words: str | bytes | int) -> Any:
        with self.client() as client:
            return client.execute_command(*words)

    def is_copied_to(self, number: int) -> bool:
        """Say whether so many replicas have all that this master has; WAIT asks for what its own connection wrote, only."""
        role, written, replicas, *_ = self.command("ROLE")
        return role in ("master", b"master") and sum(int(copied) >= written for *_, copied in replicas) >= number

    def holds(self, field: str) -> bool:
        """Say whether something is stored of this kind, see `scripts.py`: "tag" of a token, "renewal" of the right to it."""
        return any(self.command("HEXISTS", key, field) for key in self.command("KEYS", "*"))

    def kill(self) -> None:
        if self._process is not None and self.is_running:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It neither answers nor ends connections."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


class Tls:
    """A certificate authority and what it has signed for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.key, self.cert = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
        authority.cert_pem.write_to_path(self.ca)
        server.private_key_pem.write_to_path(self.key)
        server.cert_chain_pems[0].write_to_path(self.cert)
        client = authority.issue_cert("client@example.com")
        self.client_key, self.client_cert = folder / "client-key.pem", folder / "client-cert.pem"
        client.private_key_pem.write_to_path(self.client_key)
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        files = {"cert-file": self.cert, "key-file": self.key, "ca-cert-file": self.ca}
        self.options = [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]

    def context(self, *, as_client: bool = False) -> ssl.SSLContext:
        """Whom to believe, and, `as_client`, who we are."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if as_client:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


class Sentinels:
    """Three servers, one of them the master, and three Sentinels that watch over them."""

    MASTER = "main"

    def __init__(self, folder: Path, *, password: str = "", tls: Tls | None = None) -> None:
        self.tls = tls
        options = ["--repl-diskless-sync-delay", "0"]
        if tls is not None:
            options += ["--tls-replication", "yes", "--tls-auth-clients", "no"]
        self.servers = [Server(folder / f"server{n}", *options, tls=tls).start() for n in range(3)]
        for replica in self.servers[1:]:
            replica.command("REPLICAOF", "127.0.0.1", self.servers[0].port)
        self.wait_for_sync()
        watched = (
            f"sentinel monitor {self.MASTER} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {self.MASTER} 500\n"
            f"sentinel failover-timeout {self.MASTER} 2000\n"
        )
        if password:
            watched += f"requirepass {password}\nsentinel sentinel-pass {password}\n"
        if tls is not None:
            watched += "tls-replication yes\ntls-auth-clients no\n"
        self.sentinels = [Server(folder / f"sentinel{n}", sentinel=watched, tls=tls) for n in range(3)]
        for sentinel in self.sentinels:
            sentinel.login = {"password": password} if password else {}
            sentinel.start()
        for sentinel in self.sentinels:
            wait_for(partial(self._knows_all, sentinel), "the Sentinels do not find each other")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis{'s' if self.tls else ''}+sentinel://{hosts}/{self.MASTER}"

    @property
    def master(self) -> Server:
        """The server that all Sentinels take for the master."""

        def agreed() -> Server | None:
            ports = {int(s.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.MASTER)[1]) for s in self.sentinels}
            return next((s for s in self.servers if {s.port} == ports and _role(s) == "master"), None)

        found: Server = wait_for(agreed, "no master")
        return found

    def wait_for_sync(self) -> None:
        """Else the next failover would find nobody to take over."""
        wait_for(lambda: sorted(map(_role, self.servers)) == ["connected", "connected", "master"], "no sync")

    def _knows_all(self, sentinel: Server) -> bool:
        words = sentinel.command("SENTINEL", "MASTER", self.MASTER)
        state = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2], strict=True))
        return (
            state["flags"] in ("master", {"master"}),
            int(state["num-other-sentinels"]),
            int(state["num-slaves"]),
        ) == (True, 2, 2)

    def end(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()


class Cluster:
    """Three masters with a replica each."""

    def __init__(self, folder: Path) -> None:
        cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
        self.nodes = []
        for number in range(6):
            node = Server(folder / f"node{number}", *cluster)
            bus = free_port()
            if VERSION >= 7:
                node.options += ("--cluster-port", str(bus))
            while VERSION < 7 and (bus := node.port + 10000) > 65535:
                node.port = free_port()
            self.nodes.append(node.start())
            if number:
                self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        bounds = (0, 5461, 10923, 16384)
        for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            node.command("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in self.nodes:
            wait_for(partial(self._knows_all, node), "the nodes do not meet")
        for replica, master in zip(self.nodes[3:], self.nodes[:3], strict=True):
            name = str(master.command("CLUSTER", "MYID"))
            wait_for(partial(replica.command, "CLUSTER", "REPLICATE", name), "no replica")
        self.settle()

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def owner(self, key: str) -> Server:
        """The node that serves a key."""
        slot = self.nodes[0].command("CLUSTER", "KEYSLOT", key)

        def found() -> Server | None:
            for node in self.nodes:
                with contextlib.suppress(redis.RedisError, OSError):
                    for first, last, master, *_ in node.command("CLUSTER", "SLOTS"):
                        if first <= slot <= last:
                            return next(n for n in self.nodes if n.port == master[1])
            return None

        owner: Server = wait_for(found, "nobody owns the slot")
        return owner

    def settle(self) -> None:
        for node in self.nodes:
            if not node.is_running:
                node.start()
        for node in self.nodes:
            wait_for(partial(_is_ok, node), "the cluster is not well")
        wait_for(
            lambda: sorted(map(_role, self.nodes)) == ["connected"] * 3 + ["master"] * 3,
            "the replicas are not in sync",
        )

    def flush(self) -> None:
        """Forget everything."""
        for node in self.nodes:
            if _role(node) == "master":
                node.command("FLUSHALL")

    @staticmethod
    def _knows_all(node: Server) -> bool:
        return len(node.command("CLUSTER NODES")) == 6

    def end(self) -> None:
        for node in self.nodes:
            node.kill()


def _is_ok(node: Server) -> bool:
    return bool(node.command("CLUSTER INFO")["cluster_state"] == "ok")


def _role(server: Server) -> str:
    """`master`, or the state of a replica's link to its own."""
    role = server.command("ROLE")
    return str(role[0] if role[0] == "master" else role[3])
