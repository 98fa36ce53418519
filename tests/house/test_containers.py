"""The container files: what can be held to a rule without a Docker engine or a cluster."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import proxy
from proxy.settings import Settings, load_settings
from tests.house.pages import ROOT, text_of

Steps = list[tuple[str, str]]


def _stages() -> list[Steps]:
    """Split the Dockerfile into stages of (instruction, rest)."""
    text = re.sub(r"^\s*#.*\n", "", text_of("Dockerfile"), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[Steps] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest.strip()))
    return stages


#: What stands before the first stage, and the two.
GLOBAL, BUILDER, FINAL = _stages()


def _one(stage: Steps, word: str) -> str:
    (rest,) = [rest for name, rest in stage if name == word]
    return rest


def _runs(stage: Steps) -> list[str]:
    return [command.strip() for name, rest in stage if name == "RUN" for command in rest.split("&&")]


def test_both_stages_stand_on_the_same_slim_python() -> None:
    images = {_one(stage, "FROM").partition(" ")[0] for stage in (BUILDER, FINAL)}
    assert images == {"${PYTHON_IMAGE}"}
    name, _, image = _one(GLOBAL, "ARG").partition("=")
    assert name == "PYTHON_IMAGE"
    # A tag to read, and the digest that says which of all that bore it.
    assert re.fullmatch(r"python:3\.1[1-4]-slim-\w+@sha256:[0-9a-f]{64}", image)


@pytest.mark.parametrize("tool", ["docker", "skopeo"])
def test_make_pin_writes_the_digest_behind_the_tag(tool: str, tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / tool
    script.write_text(f'#!/bin/sh\ncase "$*" in *python:3.1*) echo {digest};; *) exit 1;; esac\n')
    script.chmod(0o755)
    for name in ("Dockerfile", "Makefile"):
        (tmp_path / name).write_text(text_of(name))
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    for _ in range(2):  # pinned once more, it has one digest, not two
        subprocess.run(["make", "pin"], cwd=tmp_path, env=environ, check=True, timeout=20, capture_output=True)
    tag = _one(GLOBAL, "ARG").partition("@")[0]
    pinned = (tmp_path / "Dockerfile").read_text()
    assert f"ARG {tag}@{digest}\n" in pinned
    assert pinned.count(digest) == 1
    assert re.findall(r"^#.*\b(20\d\d-\d\d-\d\d)\b", pinned, re.MULTILINE) == [f"{datetime.now(tz=UTC):%F}"]


def test_the_final_stage_takes_only_what_was_built_the_code_last() -> None:
    assert _runs(FINAL) == []
    assert [rest.rpartition(" ")[0] for name, rest in FINAL if name == "COPY"] == [
        "--from=builder /compiled/",
        "--from=builder /opt/cardcash-proxy",
        "--from=builder /code/",
    ]


def test_the_user_is_a_number_that_is_not_root() -> None:
    uid, _, gid = _one(FINAL, "USER").partition(":")
    assert int(uid) >= 10000
    assert int(gid) >= 10000


def test_health_is_asked_of_the_health_command() -> None:
    _, _, command = _one(FINAL, "HEALTHCHECK").partition("CMD ")
    assert json.loads(command) == ["cardcash-proxy", "health"]


def test_it_serves_unless_told_otherwise_and_drains_on_sigterm() -> None:
    assert json.loads(_one(FINAL, "ENTRYPOINT")) == ["cardcash-proxy"]
    assert json.loads(_one(FINAL, "CMD")) == ["serve"]
    assert _one(FINAL, "STOPSIGNAL") == "SIGTERM"


def test_the_ports_of_the_defaults_are_named() -> None:
    settings = load_settings(environ={"CARDCASH_APP_ID": "x"})
    assert _one(FINAL, "EXPOSE").split() == [str(settings.listen[0].port), str(settings.admin.listen[0].port)]


def test_nothing_is_written_at_run_time() -> None:
    assert "PYTHONDONTWRITEBYTECODE=1" in _one(FINAL, "ENV")
    compiled = [run for run in _runs(BUILDER) if "compileall" in run]
    assert len(compiled) == 3  # the standard library, the dependencies, the code
    assert all("--invalidation-mode unchecked-hash" in run for run in compiled)


def test_the_label_has_the_version_of_the_package() -> None:
    assert f'org.opencontainers.image.version="{proxy.__version__}"' in _one(FINAL, "LABEL")


def test_everything_from_the_network_has_a_hash() -> None:
    installs = [run for run in _runs(BUILDER) if re.search(r"\bpip\b.*\binstall\b", run)]
    assert len(installs) == 3
    for run in installs:
        assert "--require-hashes" in run or "--no-index" in run
    assert "-r requirements/runtime.txt" in installs[0]


def _needed_by(name: str) -> set[str]:
    """The distribution and all it needs on this Python, normalised as locks write them."""
    needed, left = set[str](), [name]
    while left:
        dist = left.pop()
        if dist in needed:
            continue
        needed.add(dist)
        for line in importlib.metadata.requires(dist) or []:
            requirement, _, marker = line.partition(";")
            if "extra ==" not in marker and "python_version < '3.11'" not in marker.replace('"', "'"):
                left.append(re.split(r"[\s<>=!~\[(]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-"))
    return needed


def test_the_wheel_is_built_by_hatchling_and_all_it_needs_from_the_lock(tmp_path: Path) -> None:
    (cut,) = [run for run in _runs(BUILDER) if run.startswith("awk")]
    subprocess.run(
        ["sh", "-c", cut.replace("build.txt", str(tmp_path / "build.txt"))], cwd=ROOT, check=True, timeout=20
    )
    lines = (tmp_path / "build.txt").read_text(encoding="utf-8").splitlines()
    pins = [i for i, line in enumerate(lines) if re.match(r"[a-z]", line)]
    assert {lines[i].partition("==")[0] for i in pins} == _needed_by("hatchling")
    assert [lines[i] for i in pins if "--hash=sha256:" not in lines[i + 1]] == []


def test_the_build_context_holds_what_is_copied_and_no_secrets() -> None:
    lines = [line for line in text_of(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {part.rstrip("/") for name, rest in BUILDER if name == "COPY" for part in rest.split()[:-1]}
    assert sent == copied


COMPOSE: dict[str, Any] = yaml.safe_load(text_of("docker-compose.yml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def _compose_settings() -> Settings:
    return load_settings(environ=SERVICES["proxy"]["environment"])


def test_the_environment_in_compose_is_a_valid_configuration() -> None:
    settings = _compose_settings()
    assert settings.upstream.origin == "http://simulator:8090"
    assert settings.login.configured


def test_the_network_in_compose_is_the_one_whose_callers_are_served() -> None:
    (config,) = COMPOSE["networks"]["cardcash"]["ipam"]["config"]
    networks = _compose_settings().callers.allowed_networks
    assert networks is not None
    assert {str(network) for network in networks} == {"127.0.0.0/8", config["subnet"]}


def test_a_proxy_that_the_engine_starts_again_finds_its_session_and_what_was_refused() -> None:
    assert SERVICES["proxy"]["restart"] != "no"
    kind, _, path = str(_compose_settings().session.store).partition("://")
    volumes = dict(volume.split(":")[:2] for volume in SERVICES["proxy"]["volumes"])
    (volume,) = [name for name, target in volumes.items() if Path(path).parent == Path(target)]
    assert kind == "file"
    assert volume in COMPOSE["volumes"]
    # A volume takes over who may write from the folder of the image.
    assert any(run == f"mkdir -p -m 1777 /code{Path(path).parent}" for run in _runs(BUILDER))


@pytest.mark.parametrize("name", ["proxy", "localhost", "127.0.0.1"])
def test_the_proxy_is_served_by_its_names_in_compose(name: str) -> None:
    assert name in (_compose_settings().callers.allowed_hosts or ())


#: Seconds after `drain.timeout` in which the session and the last lines of the log are written.
TO_END = 16


def test_compose_gives_the_proxy_time_to_drain() -> None:
    drain = _compose_settings().drain
    assert int(SERVICES["proxy"]["stop_grace_period"].removesuffix("s")) >= drain.delay + drain.timeout + TO_END
