"""How the tests are spread over workers: no test that hangs takes others with it, or the run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.house.pages import ROOT
from tests.spread import FIRST, SINGLY, TOGETHER

CONFTEST = """
import os
import time
import pytest
from tests.spread import ByFile

def pytest_collection():
    # Those who come in place of others are not ready at the same time.
    time.sleep({"gw2": 0.5, "gw3": 1.5}.get(os.environ.get("PYTEST_XDIST_WORKER"), 0))

def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    with open(os.environ["TOLD"], "a") as told:
        told.write(f"{os.getpid()} {item.nodeid}\\n")
"""
TESTS = """
import time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_before(number):
    pass

def test_that_hangs():
    while HANGS:
        time.sleep(1)

@pytest.mark.parametrize("number", range(4))
def test_after(number):
    pass
"""


@pytest.mark.parametrize("hanging", [["other"], ["one", "other"]], ids=["one", "two at once"])
def test_a_test_that_hangs_fails_once_and_all_others_are_run_by_the_worker_of_their_file(
    tmp_path: Path, hanging: list[str]
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("one", "other", "third"):
        (tmp_path / f"test_{name}.py").write_text(TESTS.replace("HANGS", str(name in hanging)))
    told = tmp_path / "told"
    plugins = ["-p", "xdist", "-p", "pytest_timeout"]  # no others, which take longer to import than all this
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *plugins, "-q", "-n", "2", "--timeout=2", "--timeout-method=thread"),
            tmp_path,
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "TOLD": str(told), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,  # names are told from here, wherever the repository lies
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert f"{len(hanging)} failed, {27 - len(hanging)} passed" in done.stdout, done.stdout + done.stderr
    for name in hanging:
        assert f"crashed while running 'test_{name}.py::test_that_hangs'" in done.stdout
    ran = [line.split(" ", 1) for line in told.read_text().splitlines()]
    assert set(Counter(nodeid for _, nodeid in ran).values()) == {1}
    for name in {"one", "other", "third"}.difference(hanging):
        assert len({worker for worker, nodeid in ran if nodeid.startswith(f"test_{name}.py")}) == 1


@pytest.mark.parametrize("file", sorted({*FIRST, *SINGLY, *TOGETHER}))
def test_what_is_begun_first_or_spread_is_there(file: str) -> None:
    assert (ROOT / file).exists()
