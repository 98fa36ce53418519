"""A simulator and a proxy as processes of their own, the way the pages start them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Playground:
    """Running processes; the ports of the pages stand for these."""

    proxy: str
    admin: str
    simulator: str
    log: Path

    def adapted(self, text: str) -> str:
        """Put the real addresses where the pages have their own."""
        for port, address in (("8080", self.proxy), ("8081", self.admin), ("8090", self.simulator)):
            text = text.replace(f"127.0.0.1:{port}", address)
        return text.replace("proxy.log", str(self.log))

    def environment(self) -> dict[str, str]:
        """The environment of a terminal that has the commands on its path."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{clean.get('PATH', '')}"
        return {**clean, "PATH": path, "CARDCASH_ADMIN__LISTEN": self.admin, "PYTHONDONTWRITEBYTECODE": "1"}

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, up to the last line that is whole."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()]


def _until_written(file: Path, pattern: str) -> re.Match[str]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found := re.search(pattern, file.read_text(encoding="utf-8")):
            return found
        time.sleep(0.02)
    raise AssertionError(f"never written: {pattern}; but: {file.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    folder = tmp_path_factory.mktemp("playground")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CARDCASH_")}
    command = [sys.executable, "-m", "proxy"]
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str, **environment: str) -> Path:
        log = folder / f"{name}.log"
        with log.open("wb") as out:
            processes.append(
                subprocess.Popen([*command, *arguments], env=clean | environment, stdout=out, stderr=subprocess.STDOUT)
            )
        return log

    try:
        said = start("simulator", "simulate", "--listen", "127.0.0.1:0")
        origin = _until_written(said, r"simulator at (http://[\d.:]+)")[1]
        log = start(
            "proxy",
            "serve",
            CARDCASH_APP_ID="demo-app-id",
            CARDCASH_LOGIN__EMAIL="partner@example.com",
            CARDCASH_LOGIN__PASSWORD="demo-password",
            CARDCASH_UPSTREAM__ORIGIN=origin,
            CARDCASH_LISTEN="127.0.0.1:0",
            CARDCASH_ADMIN__LISTEN="127.0.0.1:0",
            CARDCASH_LOG__FORMAT="json",
        )
        started = json.loads(_until_written(log, r"(?m)^.*\"event\":\"started\".*$")[0])
        _until_written(log, r"session_renewal")
        yield Playground(started["listen"][0], started["admin"][0], origin.removeprefix("http://"), log)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
