"""The image itself: built by buildah on a base made of this machine's Python, and run as an engine would run it.

Skipped where there is no buildah, or this is not root. What only Docker does (its
HEALTHCHECK) stands in the image.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import measure
from bench.container import USER, Container
from bench.image import Images, Place, busy_memory, until_200

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
    pytest.mark.skipif(shutil.which("strip") is None, reason="binutils are not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="building and running an image needs root"),
]

LABELS = {"SOURCE": "https://git.example/cardcash-proxy", "REVISION": "c0ffee", "CREATED": "2026-01-02T03:04:05Z"}


class Built:
    """The image, its files, and a simulator that runs from them."""

    def __init__(self, about: dict[str, Any], files: Path, simulator: int) -> None:
        self.about = about
        self.config = about["config"]
        self.files = files
        self.simulator = simulator

    def place(self, **settings: str) -> Place:
        return Place.below(self.files, self.simulator, **settings)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Built]:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("here not even root may mount anything")
    assert pytestconfig.cache is not None
    folder = tmp_path_factory.mktemp("image")
    images = Images(folder, pytestconfig.cache.mkdir("wheels"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(images.forget)
        image = images.build("new", images.make_base(), **LABELS)
        files = stack.enter_context(images.mounted(image))
        simulator = Place.below(files, 0)
        running = stack.enter_context(simulator.run("simulate", "--listen", f"127.0.0.1:{simulator.port}"))
        until_200(f"http://127.0.0.1:{simulator.port}/_simulator/", running)
        yield Built(images.about(image), files, simulator.port)


@pytest.fixture(scope="module")
def served(built: Built) -> Iterator[tuple[Place, Container]]:
    place = built.place()
    # As an engine does it: the image's environment, entry point and command.
    environ = dict(line.split("=", 1) for line in built.config["Env"]) | place.environ
    words = built.config["Entrypoint"] + built.config["Cmd"]
    with Container(built.files, words, environ) as running:
        until_200(f"http://127.0.0.1:{place.admin}/readyz", running)
        yield place, running


def test_it_serves_as_user_10001_on_a_read_only_disk_without_capabilities(served: tuple[Place, Container]) -> None:
    place, running = served
    status = Path(f"/proc/{running.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == [str(USER)] * 4
    assert {fields[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1"
    mounts = Path(f"/proc/{running.pid}/mounts").read_text().splitlines()
    assert [line.split()[3].split(",")[0] for line in mounts if line.split()[1] == "/"] == ["ro"]
    until_200(f"http://127.0.0.1:{place.port}/merchants/buy", running)


def test_the_environment_of_the_image_is_what_it_was_tried_with(built: Built) -> None:
    ours = {name: value for name, value in built.place().environ.items() if not name.startswith("CARDCASH_")}
    assert dict(line.split("=", 1) for line in built.config["Env"]) == ours


def test_its_health_check_says_well(built: Built, served: tuple[Place, Container]) -> None:
    place, _ = served
    kind, *words = built.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    with Container(built.files, words, place.environ) as health:
        assert health.output() == "ok\n"
        assert health.process.returncode == 0


def test_nothing_is_compiled_when_it_runs(built: Built) -> None:
    # Whatever a command imports: most of it, so that no part of the standard library was forgotten.
    loaded = "import proxy.app, proxy.commands.serve, proxy.commands.doctor, proxy.simulator, proxy.settings.yaml_file"
    words = ["python", "-v", "-c", f"{loaded}; import proxy.processes.supervisor, proxy.session.stores.redis.store"]
    with Container(built.files, words, built.place().environ) as verbose:
        said = verbose.output()
    assert verbose.process.returncode == 0, said[-2000:]
    assert [line for line in said.splitlines() if line.startswith("# code object from") and ".pyc" not in line] == []
    assert "# code object from" in said or "matches" in said


def test_code_and_dependencies_are_layers_of_their_own(built: Built) -> None:
    assert len(built.about["rootfs"]["diff_ids"]) == 4  # base, compiled standard library, dependencies, code


def test_shared_libraries_are_stripped_and_nothing_for_compilers_is_left(built: Built) -> None:
    installed = built.files / "opt/cardcash-proxy/lib"
    libraries = list(installed.rglob("*.so"))
    assert len(libraries) > 10
    assert [path for path in libraries if b"\0.debug_info\0" in path.read_bytes()] == []
    assert [path for ending in ("pyx", "pxd", "pyi", "pxi", "c", "h") for path in installed.rglob(f"*.{ending}")] == []


def test_the_labels_say_what_it_is_and_what_it_was_built_from(built: Built) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in built.config["Labels"].items()}
    assert {name.upper(): labels[name] for name in ("source", "revision", "created")} == LABELS
    assert labels["licenses"] == "NOASSERTION"
    assert labels["base.name"].endswith(":base")


def test_little_memory_is_used_after_the_start(served: tuple[Place, Container]) -> None:
    _, running = served
    assert measure.memory_mb([running.pid]) < 52  # 47 with Python 3.11; others differ by some


def test_32_busy_connections_take_little_more(built: Built) -> None:
    place = built.place()
    with place.run("serve") as running:
        until_200(f"http://127.0.0.1:{place.admin}/readyz", running)
        # Its own memory: what is mapped of files comes and goes with the machine's.
        before = measure.memory_mb([running.pid], "RssAnon")
        busy_memory(place, running)
        assert measure.memory_mb([running.pid], "RssAnon") < before + 4


def test_sigterm_ends_it_well(built: Built) -> None:
    place = built.place()
    with place.run("serve") as running:
        until_200(f"http://127.0.0.1:{place.admin}/readyz", running)
        assert running.end(signal.SIGTERM) == 0


def test_a_session_can_be_kept_in_a_volume(built: Built) -> None:
    folder = (built.files / "var/lib/cardcash-proxy").stat()
    assert stat.S_IMODE(folder.st_mode) == 0o1777


def test_no_build_tools_are_left(built: Built) -> None:
    assert not list((built.files / "opt/cardcash-proxy").rglob("pip"))
    assert not (built.files / "build").exists()
    assert not (built.files / "opt/hatchling").exists()
