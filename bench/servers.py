"""The servers of a run: the nginx upstream, the proxy that is measured, and the peers that are installed.

Owns how each is started and found ready. Their configuration is in configs.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import aiohttp
import trustme

from bench import configs
from bench.configs import Origin
from bench.processes import BenchError, Cores, Server, clean_environment, free_port, installed
from bench.results import OURS

ROOT = Path(__file__).parents[1]
#: Seconds in which a server is ready, under valgrind too.
_START = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs: a folder for its files, the cores, what is behind it, and what its command stands behind."""

    folder: Path
    cores: Cores
    origin: Origin
    wrapper: tuple[str, ...] = ()

    def start(
        self, name: str, command: Sequence[str], output: Path, environ: Mapping[str, str] | None = None
    ) -> Server:
        """Start a server that is measured. Raises BenchError."""
        return Server.start(name, [*self.wrapper, *command], cores=self.cores.measured, output=output, environ=environ)


@dataclass(frozen=True, slots=True)
class Peer:
    """A running proxy, or (`server` None) the upstream itself; `ready` is its start-up time in seconds."""

    name: str
    port: int
    server: Server | None = None
    ready: float = 0.0
    admin_port: int = 0

    @property
    def pids(self) -> list[int]:
        """Itself and its workers."""
        return self.server.pids if self.server else []

    @property
    def server_pid(self) -> int:
        """The process that was started, which may have workers."""
        return self.pids[0] if self.server else 0

    def stop(self) -> None:
        """End it."""
        if self.server:
            self.server.stop()


@dataclass(frozen=True, slots=True)
class Upstream:
    """The nginx that answers for CardCash."""

    server: Server
    plain: Origin
    tls: Origin


def our_command() -> list[str]:
    """Return the command of the proxy: the installed script beside this Python, else the module."""
    script = Path(sys.executable).with_name("cardcash-proxy")
    return [str(script)] if script.exists() else [sys.executable, "-m", "proxy"]


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """Write a certificate (with its key) for localhost and the CA to trust; return both files."""
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    certificate, trusted = folder / "server.pem", folder / "ca.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    ca.cert_pem.write_to_path(str(trusted))
    return certificate, trusted


async def start_upstream(folder: Path, cores: Cores) -> Upstream:
    """Start nginx with everything the scenarios ask for. Raises BenchError."""
    nginx = installed("nginx")
    if nginx is None:
        raise BenchError("nginx is not installed, and it is every scenario's upstream: apt-get install nginx-light")
    certificate, ca = make_certificates(folder)
    for path, size in ((configs.LIST, configs.LIST_BYTES), (configs.STREAM, configs.STREAM_BYTES)):
        file = folder / "www" / path.strip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            out.truncate(size)  # a file of zeros that takes no disk
    origin, tls = Origin(free_port()), Origin(free_port(), ca)
    text = configs.nginx_upstream(folder, port=origin.port, tls_port=tls.port, certificate=certificate)
    config = _written(folder / "upstream.conf", text)
    command = [nginx, "-e", "stderr", "-p", str(folder), "-c", str(config)]
    server = Server.start("nginx (upstream)", command, cores=cores.others, output=folder / "upstream.out")
    try:
        await server.answers(origin.port, configs.SMALL)
    except BaseException:
        server.stop()
        raise
    return Upstream(server, origin, tls)


def our_environment(origin: Origin, port: int, admin_port: int, settings: Mapping[str, str] = {}) -> dict[str, str]:
    """Return the environment of the proxy; settings as environment names without CARDCASH_."""
    own = {
        "APP_ID": "demo-app-id",
        "UPSTREAM__ORIGIN": origin.url,
        "LISTEN": f"127.0.0.1:{port}",
        "ADMIN__LISTEN": f"127.0.0.1:{admin_port}",
        **({"UPSTREAM__CA_FILE": str(origin.ca)} if origin.ca else {}),
        **settings,
    }
    return clean_environment(**{f"CARDCASH_{name}": value for name, value in own.items()})


async def start_ours(place: Place, *, output: Path | None = None, settings: Mapping[str, str] = {}) -> Peer:
    """Start the proxy as an operator would; its log goes to `output`, else to a file in its place."""
    port, admin_port = free_port(), free_port()
    environ = our_environment(place.origin, port, admin_port, settings)
    command = [*our_command(), "serve"]
    server = place.start(OURS, command, output or place.folder / "cardcash-proxy.log", environ)
    return await _ready(OURS, server, port, admin_port, "/readyz")


async def start_simulator(folder: Path, cores: frozenset[int], *arguments: str) -> tuple[Server, Origin]:
    """Start the simulator of CardCash as a process of its own."""
    origin = Origin(free_port())
    command = [*our_command(), "simulate", "--listen", f"127.0.0.1:{origin.port}", *arguments]
    server = Server.start("simulator", command, cores=cores, output=folder / "simulator.out")
    try:
        await server.answers(origin.port, "/_simulator/")
    except BaseException:
        server.stop()
        raise
    return server, origin


async def _ready(name: str, server: Server, port: int, asked: int = 0, path: str = configs.SMALL) -> Peer:
    try:
        return Peer(name, port, server, await server.answers(asked or port, path, seconds=_START), asked)
    except BaseException:
        server.stop()
        raise


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def _nginx(place: Place) -> Peer:
    port, folder = free_port(), place.folder
    config = _written(folder / "peer.conf", configs.nginx_peer(folder, port=port, origin=place.origin))
    command = [installed("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]
    return await _ready("nginx", place.start("nginx", command, folder / "nginx.out"), port)


async def _haproxy(place: Place) -> Peer:
    port, folder = free_port(), place.folder
    config = _written(folder / "haproxy.cfg", configs.haproxy_peer(port=port, origin=place.origin))
    command = [installed("haproxy") or "haproxy", "-f", str(config)]
    return await _ready("haproxy", place.start("haproxy", command, folder / "haproxy.log"), port)


async def _caddy(place: Place) -> Peer:
    port, folder = free_port(), place.folder
    config = _written(folder / "Caddyfile", configs.caddy_peer(folder, port=port, origin=place.origin))
    command = [installed("caddy") or "caddy", "run", "--config", str(config), "--adapter", "caddyfile"]
    # It writes to its home; one core, so one thread that runs Go.
    environ = clean_environment(
        GOMAXPROCS="1", HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder)
    )
    return await _ready("caddy", place.start("caddy", command, folder / "caddy.out", environ), port)


async def start_aiohttp(place: Place) -> Peer:
    """Start bench/plain_aiohttp.py."""
    port, folder = free_port(), place.folder
    command = [sys.executable, "-m", "bench.plain_aiohttp", "--listen", str(port), "--upstream", place.origin.url]
    command += ["--log", str(folder / "aiohttp-access.log")]
    command += ["--ca", str(place.origin.ca)] if place.origin.ca else []
    environ = clean_environment(PYTHONPATH=str(ROOT))
    return await _ready("aiohttp", place.start("aiohttp", command, folder / "aiohttp.out", environ), port)


async def _mitmproxy(place: Place) -> Peer:
    port, folder = free_port(), place.folder
    command = [installed("mitmdump") or "mitmdump", "--mode", f"reverse:{place.origin.url}", "--listen-port", str(port)]
    command += ["--listen-host", "127.0.0.1", "--set", f"confdir={folder}", "--set", "stream_large_bodies=1m"]
    command += ["--set", f"ssl_verify_upstream_trusted_ca={place.origin.ca}"] if place.origin.ca else []
    return await _ready("mitmproxy", place.start("mitmproxy", command, folder / "mitmproxy.log"), port)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of proxy: how it is started, and how its command tells its version (empty: it is here in any case)."""

    start: Callable[[Place], Awaitable[Peer]]
    version: tuple[str, ...] = ()

    @property
    def there(self) -> bool:
        """Say whether it is installed."""
        return not self.version or installed(self.version[0]) is not None


KINDS = {
    OURS: Kind(start_ours),
    "nginx": Kind(_nginx, ("nginx", "-v")),
    "haproxy": Kind(_haproxy, ("haproxy", "-v")),
    "caddy": Kind(_caddy, ("caddy", "version")),
    "aiohttp": Kind(start_aiohttp),
    "mitmproxy": Kind(_mitmproxy, ("mitmdump", "--version")),
}


def version_of(name: str) -> str:
    """Tell the version of a peer; empty if it does not say."""
    command = KINDS[name].version
    if name == "aiohttp":
        return aiohttp.__version__
    if not command:
        return version("cardcash-proxy")
    done = subprocess.run(
        [installed(command[0]) or command[0], *command[1:]], capture_output=True, text=True, timeout=20, check=False
    )
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else ""
