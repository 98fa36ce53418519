"""What the image costs: `python -m bench.image` builds it and measures, or `--root FOLDER`: files that an engine exported.

Start (from exec to /readyz 200, beside a simulator), memory, and `cardcash-proxy health`, at each limit of CPU. It needs
root and buildah; the base image is made of this machine's Python (`base_image.py`), so that nothing is pulled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import base_image, measure
from bench.container import Container
from bench.load import Ask, closed_loop
from bench.processes import BenchError, clean_environment, free_port, installed
from bench.quota import limited

ROOT: Final = Path(__file__).parents[1]
#: Of a core; None: as many as there are.
LIMITS: Final = (None, 1.0, 0.25, 0.1)
_TAG: Final = "localhost/cardcash-proxy-bench"
_WHEEL_BUILDERS: Final = (
    r"/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep"
)


class Images:
    """Images that are built below `folder` and seen by nobody else. Raises BenchError."""

    def __init__(self, folder: Path, wheels: Path | None = None) -> None:
        self._folder = folder
        #: May have some already: those are not fetched again.
        self._wheels = wheels or folder / "wheels"

    def buildah(self, *words: str) -> str:
        """Run buildah; returns what it prints."""
        places = ("--root", str(self._folder / "root"), "--runroot", str(self._folder / "run"))
        # Without an engine's runtime, which may not know this machine's control groups.
        environ = clean_environment(BUILDAH_ISOLATION="chroot")
        done = subprocess.run(
            [installed("buildah") or "buildah", *places, *words],
            capture_output=True,
            text=True,
            check=False,
            env=environ,
            cwd=ROOT,
        )
        if done.returncode:
            raise BenchError(f"buildah {words[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout.strip()

    def forget(self) -> None:
        """Remove all that was built."""
        self.buildah("rmi", "--all", "--force")

    def make_base(self) -> str:
        """Build the base image, and fetch what the locks name; returns its name."""
        self._wheels.mkdir(exist_ok=True)
        cut = subprocess.run(
            [installed("awk") or "awk", _WHEEL_BUILDERS, "requirements/dev.txt"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        (self._folder / "build.txt").write_text(cut.stdout)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps")
        locks = ("-r", "requirements/runtime.txt", "-r", str(self._folder / "build.txt"))
        done = subprocess.run(
            [*pip, "--only-binary", ":all:", "--require-hashes", "-d", str(self._wheels), *locks],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        if done.returncode:
            raise BenchError(f"the wheels could not be fetched: {done.stderr.strip()[-500:]}")
        base_image.make_root(self._folder / "base")
        steps = "FROM scratch\nCOPY . /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n"
        (self._folder / "Base").write_text(steps)
        self.buildah("build", "-q", "-t", f"{_TAG}:base", "-f", str(self._folder / "Base"), str(self._folder / "base"))
        return f"{_TAG}:base"

    def build(self, name: str, base: str, **arguments: str) -> str:
        """Build the Dockerfile on `base`, with these build arguments; returns the image's name."""
        given = [f"--build-arg={key}={value}" for key, value in {"PYTHON_IMAGE": base, **arguments}.items()]
        how = ("--format", "docker", "--layers", "-q", "-v", f"{self._wheels}:{base_image.WHEELS}:ro")
        self.buildah("build", *how, *given, "-t", f"{_TAG}:{name}", str(ROOT))
        return f"{_TAG}:{name}"

    def about(self, image: str) -> dict[str, Any]:
        """Describe an image, as engines do."""
        told: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", image))["Docker"]
        return told

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """Mount the image's files; writing there changes no image."""
        made = self.buildah("from", image)
        try:
            yield Path(self.buildah("mount", made))
        finally:
            self.buildah("rm", made)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the proxy runs: its files, its environment, and its ports."""

    root: Path
    environ: dict[str, str]
    port: int
    admin: int

    @classmethod
    def below(cls, root: Path, simulator: int, **settings: str) -> Place:
        """Choose ports, and write the settings for a simulator at a port."""
        port, admin = free_port(), free_port()
        environ = {
            "PATH": "/opt/cardcash-proxy/bin:/usr/local/bin:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "CARDCASH_APP_ID": "demo-app-id",
            "CARDCASH_UPSTREAM__ORIGIN": f"http://127.0.0.1:{simulator}",
            "CARDCASH_LISTEN": f"127.0.0.1:{port}",
            "CARDCASH_ADMIN__LISTEN": f"127.0.0.1:{admin}",
        }
        return cls(root, {**environ, **settings}, port, admin)

    def run(self, *words: str, group: Path | None = None) -> Container:
        """Run a command of the proxy."""
        return Container(self.root, ["cardcash-proxy", *words], self.environ, group=group)


def until_200(url: str, container: Container, seconds: float = 60.0) -> float:
    """Wait for the first good answer; returns when it came, by the monotonic clock. Raises BenchError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and container.process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 - ours
            answer.read()
            return time.monotonic()
        time.sleep(0.002)
    raise BenchError(f"no good answer at {url}: {container.output() if container.process.poll() is not None else ''}")


def busy_memory(place: Place, running: Container, seconds: float = 1.0) -> float:
    """Keep 32 connections busy with small answers (404 from the simulator), and return its memory then, in MB."""
    asyncio.run(closed_loop(place.port, [Ask("/nothing")], connections=32, seconds=seconds))
    return measure.memory_mb([running.pid])


def cost_of_start(place: Place, share: float | None) -> dict[str, float]:
    """Start it and ask for its health once; returns seconds, seconds of CPU, and MB, by name."""
    with ExitStack() as stack:
        group = None if share is None else stack.enter_context(limited(share))
        if share is not None and group is None:
            raise BenchError("no control groups here")
        served = stack.enter_context(place.run("serve", group=group))
        ready = until_200(f"http://127.0.0.1:{place.admin}/readyz", served) - served.began
        found = {
            "ready_s": ready,
            "cpu_s": measure.cpu_seconds([served.pid]) - served.used_before,
            "rss_mb": measure.memory_mb([served.pid]),
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        health = stack.enter_context(place.run("health", group=group))
        told = health.output()
        taken, after = time.monotonic() - health.began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if health.process.returncode:
            raise BenchError(f"health: {told}")
        found["health_s"] = taken
        found["health_cpu_s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - health.used_before
        if share is None:
            found["busy_mb"] = busy_memory(place, served)
        served.end()
        return found


def main() -> int:
    """Build, measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.image", description=__doc__)
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="measure these files instead of building the image")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-image-")))
            root = options.root
            if root is None:
                images = Images(folder)
                stack.callback(images.forget)
                root = stack.enter_context(images.mounted(images.build("new", images.make_base())))
            simulator = Place.below(root, 0)
            words = ("simulate", "--listen", f"127.0.0.1:{simulator.port}")
            until_200(
                f"http://127.0.0.1:{simulator.port}/_simulator/", stack.enter_context(simulator.run(*words)), seconds=20
            )
            print(
                "| CPU | ready after | CPU until then | memory (busy) | `health` | its CPU |\n|---|---|---|---|---|---|"
            )
            for share in LIMITS:
                rounds = [cost_of_start(Place.below(root, simulator.port), share) for _ in range(options.rounds)]
                at = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
                print(
                    f"| {share or 'no limit'} | {at['ready_s']:.2f} s | {at['cpu_s']:.2f} s | {at['rss_mb']:.1f} MB"
                    f"{' / {:.1f} MB'.format(at['busy_mb']) if 'busy_mb' in at else ''} "
                    f"| {at['health_s']:.2f} s | {at['health_cpu_s']:.3f} s |",
                    flush=True,
                )
    except BenchError as error:
        print(f"bench.image: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
