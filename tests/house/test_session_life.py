"""The tables "rule → test" of tests/README.md: each row names tests, and they exist.

Also the tests of those rows that have no better place: the proxy as a whole against the simulator, and secrets in files.
"""

from __future__ import annotations

import ast
import asyncio
import json
import math
import re
import time
from functools import cache
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.settings import load_settings
from proxy.simulator import SimulatorSettings
from proxy.watched_files import SecretsWatch
from tests.house.pages import ROOT, table, text_of, ticked
from tests.house.test_what_happens import World, world

HEADS = (
    "in the life of a session",
    "where money is at stake",
    "on the wire",
    "who may call",
    "when the Redis of a fleet",
)
ROWS = {row[0]: row for head in HEADS for row in table(head)}


@cache
def _tests_of(file: str) -> set[str]:
    """List the tests of a file as pytest names them; read, not run."""
    names: set[str] = set()
    for node in ast.parse(text_of(file)).body:
        inside = [(f"{node.name}::", node.body)] if isinstance(node, ast.ClassDef) else [("", [node])]
        for prefix, body in inside:
            for part in body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name.startswith("test_"):
                    names.add(prefix + part.name)
    return names


def test_no_row_stands_there_twice() -> None:
    assert len(ROWS) == sum(len(table(head)) for head in HEADS)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_row_says_what_happens_and_names_its_tests(row: list[str]) -> None:
    assert len(row) == 3
    assert len(row[1]) > 15
    assert ticked(row[2])


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_test_that_is_named_exists(row: list[str]) -> None:
    for name in ticked(row[2]):
        file, _, test = name.partition("::")
        assert (ROOT / file).is_file(), file
        assert re.fullmatch(r"test_\w+\.py", Path(file).name), f"{file} is not collected by pytest"
        assert test in _tests_of(file), name


# An upstream that takes no token at all


async def _everybody(w: World, *paths: str) -> list[tuple[int, str]]:
    answers = await asyncio.gather(*(w.get(path) for path in paths for _ in range(20)))
    return [(answer.status, answer.sentence) for answer in answers]


async def test_an_upstream_that_rejects_everything_is_not_stormed() -> None:
    async with world(SimulatorSettings(reject_all=True), login=False) as w:
        began = time.monotonic()
        for _ in range(3):
            answers = await _everybody(w, "/carts", "/wallets", "/orders/buy")
            assert {sentence for _, sentence in answers} == {"no Authorization token was found"}
        # One for the start; for each route two in its first second, and one after each pause of 1 s doubling.
        pauses_that_ended = int(math.log2(time.monotonic() - began + 1))
        assert w.sessions <= 1 + 3 * (2 + pauses_that_ended)


async def test_tokens_that_are_dead_on_arrival_cost_a_bounded_number_of_calls() -> None:
    async with world(SimulatorSettings(stillborn_tokens=True)) as w:
        answers = await asyncio.gather(*(w.get(path) for path in ("/carts", "/wallets") for _ in range(20)))
        assert {(answer.status, answer.code) for answer in answers} == {(503, "session_unavailable")}
        assert w.sessions <= 12


# An old client that signs in by itself


class OldClient:
    """Makes its own session, keeps what it was given, sends it back in every way, and makes a new one when it is over."""

    def __init__(self, w: World) -> None:
        self._world = w
        self._token = ""
        self.sign_ins = 0

    async def sign_in(self) -> None:
        answer = await self._world.call("POST", "/v3/session", headers={"x-cc-app": "demo-app-id"})
        assert answer.status == 200
        self._token = json.loads(answer.body)["access_token"]
        body = {"customer": {"email": "partner@example.com", "password": "demo-password"}}
        login = await self._world.call("POST", "/v3/customers/login", json=body, headers=self._headers)
        assert login.status == 200
        self._token = login.headers["authorization"]
        self.sign_ins += 1

    async def cart(self) -> Any:
        answer = await self._world.call("GET", "/v3/carts", headers=self._headers)
        assert answer.status == 200
        return json.loads(answer.body)["cart"]["customerId"]

    @property
    def _headers(self) -> dict[str, str]:
        cookie = SimpleCookie({"demo-app-id": self._token}).output(header="").strip()
        return {"Authorization": f"Bearer {self._token}", "Cookie": cookie, "x-cc-app": "demo-app-id"}


async def test_an_old_client_signs_in_for_days_on_one_shared_session() -> None:
    async with world() as w:
        client = OldClient(w)
        accounts = set()
        for _day in range(20):
            await client.sign_in()
            accounts.add(await client.cart())
            w.simulator.revoke_all()  # behind its back; it goes on with its old placeholder
            accounts.add(await client.cart())
        assert len(accounts) == 1
        # The proxy's own calls alone: one pair at the start, one after each revocation.
        assert (w.sessions, w.simulator.calls["POST /v3/customers/login"]) == (21, 21)


# Secrets in files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Secret as Kubernetes mounts it: a link to a link to the file."""
    for version, value in (("..1", "first-id\n"), ("..2", "second-id\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "app-id").write_text(value)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "app-id").symlink_to("..data/app-id")
    return tmp_path


@pytest.fixture
def watch(folder: Path) -> SecretsWatch:
    return SecretsWatch(load_settings(environ={"CARDCASH_APP_ID_FILE": str(folder / "app-id")}))


async def test_a_link_that_is_swapped_to_new_content_is_noticed(folder: Path, watch: SecretsWatch) -> None:
    (folder / "..new").symlink_to("..2")
    (folder / "..new").rename(folder / "..data")
    assert await watch.look() == ["app_id"]
    assert watch.app_id == "second-id"


async def test_a_link_that_is_swapped_to_the_same_content_changes_nothing(folder: Path, watch: SecretsWatch) -> None:
    (folder / "..2" / "app-id").write_text("first-id\n")
    (folder / "..new").symlink_to("..2")
    (folder / "..new").rename(folder / "..data")
    assert await watch.look() == []


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe\x00", b"two\nlines\n"], ids=["empty", "blank", "bytes", "two"]
)
async def test_a_file_that_cannot_be_used_keeps_the_last_good_value_with_one_warning(
    folder: Path, watch: SecretsWatch, content: bytes
) -> None:
    (folder / "..1" / "app-id").write_bytes(content)
    with capture_logs() as lines:
        assert await watch.look() == await watch.look() == []
    assert watch.app_id == "first-id"
    assert [(line["event"], line["log_level"]) for line in lines] == [("secret_file_unreadable", "warning")]


async def test_a_file_that_is_gone_for_a_moment_keeps_the_last_good_value(folder: Path, watch: SecretsWatch) -> None:
    (folder / "..data").unlink()
    assert await watch.look() == []
    (folder / "..data").symlink_to("..2")
    assert await watch.look() == ["app_id"]
