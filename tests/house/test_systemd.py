"""The units for systemd: what they promise can be held without a systemd that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.settings import Settings, load_settings
from tests.house.pages import ROOT, blocks

UNITS = ROOT / "config/systemd"
SERVICE = "cardcash-proxy.service"
SOCKETS = ("cardcash-proxy.socket", "cardcash-proxy-admin.socket")

Lines = list[tuple[str, str]]

with_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def _lines(text: str) -> Lines:
    assignments = (line.partition("=") for line in text.splitlines() if line and line[0] not in "#[")
    return [(name, value) for name, _, value in assignments]


def _unit(name: str) -> Lines:
    return _lines((UNITS / name).read_text())


def _one(lines: Lines, name: str) -> str:
    (value,) = [value for own, value in lines if own == name]
    return value


def _credentials(lines: Lines) -> list[str]:
    return [value.partition(":")[0] for name, value in lines if name == "LoadCredential"]


def _settings(lines: Lines, folder: Path) -> Settings:
    """Load the settings of a service as it would, with its credentials."""
    for name in _credentials(lines):
        (folder / name).write_text("secret")
    texts = [
        value.replace("%d", str(folder)).replace("%S", str(folder)) for name, value in lines if name == "Environment"
    ]
    return load_settings(environ=dict(text.split("=", 1) for text in texts))


def _drop_ins() -> list[Lines]:
    return [_lines(block.content) for block in blocks() if block.language == "ini"]


def _analyzed(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments], cwd=UNITS, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr


def test_the_service_has_valid_settings_and_takes_both_ports_from_its_sockets(tmp_path: Path) -> None:
    settings = _settings(_unit(SERVICE), tmp_path)
    assert settings.environment == "production"
    names = [_one(_unit(name), "FileDescriptorName") for name in SOCKETS]
    assert [f"fd:{name}" for name in names] == [str(settings.listen[0]), str(settings.admin.listen[0])]
    defaults = Settings(app_id=settings.app_id)
    streams = [_one(_unit(name), "ListenStream") for name in SOCKETS]
    assert streams == [str(defaults.listen[0]), str(defaults.admin.listen[0])]
    assert {_one(_unit(name), "Service") for name in SOCKETS} == {SERVICE}
    assert set(_one(_unit(SERVICE), "Requires").split()) == set(SOCKETS) == set(_one(_unit(SERVICE), "Also").split())


def test_drop_ins_in_the_documents_give_valid_settings_too(tmp_path: Path) -> None:
    services = [lines for lines in _drop_ins() if any(name == "Environment" for name, _ in lines)]
    assert services
    for lines in services:
        assert _settings(_unit(SERVICE) + lines, tmp_path).login.configured


def test_what_is_used_of_credentials_is_loaded() -> None:
    for lines in (_unit(SERVICE), *_drop_ins()):
        used = re.findall(r"%d/([\w-]+)", " ".join(value for _, value in lines))
        assert used == _credentials(lines)


def test_the_service_speaks_the_protocol_and_waits_for_the_drain(tmp_path: Path) -> None:
    unit = _unit(SERVICE)
    settings = _settings(unit, tmp_path)
    assert _one(unit, "Type") == "notify"
    assert _one(unit, "ExecReload") == "/bin/kill -HUP $MAINPID"
    assert int(_one(unit, "TimeoutStopSec")) >= settings.drain.delay + settings.drain.timeout + 16
    assert int(_one(unit, "WatchdogSec")) >= 15  # a worker that hangs is replaced by its supervisor first
    assert "/" + _one(unit, "StateDirectory") + "/" in str(settings.session.store)
    assert (_one(unit, "DynamicUser"), _one(unit, "StateDirectoryMode")) == ("yes", "0700")


def test_what_the_metrics_of_the_process_are_read_from_is_not_hidden() -> None:
    # Without /proc/stat there is no process_* at all.
    assert "ProcSubset" not in dict(_unit(SERVICE))


@with_systemd
def test_the_service_is_hardened() -> None:
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", _analyzed("security", "--offline=true", SERVICE))
    assert found is not None
    assert float(found[1]) <= 1.5


@with_systemd
def test_systemd_finds_no_fault_in_the_units() -> None:
    said = _analyzed("verify", f"./{SERVICE}", *(f"./{name}" for name in SOCKETS)).splitlines()
    # The command is not installed here.
    assert [line for line in said if "cardcash" in line and "is not executable" not in line] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
@pytest.mark.skipif(shutil.which("nsenter") is None, reason="util-linux is not installed")
def test_doctor_is_run_as_the_page_says_with_the_settings_and_the_user_of_the_service(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("here not even root may mount anything")
    (block,) = [block.content for block in blocks() if "nsenter" in block.content]
    as_told = block.replace("/opt/cardcash-proxy/bin/cardcash-proxy doctor --no-login", '/bin/sh -c "id -u; env"')
    assert as_told != block
    words = ["unshare", "--mount", "setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "sleep", "60"]
    with subprocess.Popen(
        words, env={"PATH": os.environ["PATH"], "CARDCASH_RULES": "two words; and 'more'"}
    ) as service:
        try:
            systemctl = tmp_path / "systemctl"
            systemctl.write_text(f"#!/bin/sh\necho {service.pid}\n")
            systemctl.chmod(0o755)
            while not Path(f"/proc/{service.pid}/cmdline").read_bytes().startswith(b"sleep\0"):
                assert service.poll() is None
            environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CARDCASH_APP_ID": "of-whoever-asks"}
            done = subprocess.run(
                ["sh", "-c", as_told], env=environ, capture_output=True, text=True, timeout=20, check=True
            )
        finally:
            service.kill()
    lines = done.stdout.splitlines()
    assert lines[0] == "10001"
    assert "CARDCASH_RULES=two words; and 'more'" in lines
    assert not [line for line in lines if "of-whoever-asks" in line]
