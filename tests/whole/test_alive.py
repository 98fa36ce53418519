"""What works for the life of the process is seen to work: /healthz says which part does not, the log says why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from proxy import app, loops
from proxy.server.proxy_port import ProxyServer
from proxy.session.held_token import HeldToken
from proxy.session.keeper import SessionKeeper
from proxy.watched_files import SecretsWatch
from tests.cardcash import CardCash
from tests.conftest import StartProxy
from tests.server.harness import until


@pytest.fixture
async def upstream(cardcash: CardCash) -> CardCash:
    """In plain HTTP: nothing here is about bytes."""
    return cardcash


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@pytest.mark.parametrize(
    ("owner", "method", "name"),
    [
        (SecretsWatch, "look", "secrets"),
        (SessionKeeper, "catch_up", "store"),
        (ProxyServer, "look", "callers"),
    ],
)
async def test_what_has_died_is_named_logged_and_started_again(
    upstream: CardCash,
    start_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[EventDict],
    tmp_path: Path,
    *,
    owner: type,
    method: str,
    name: str,
) -> None:
    for what in ("LOOK_EVERY", "FOLLOW_EVERY", "POLL_EVERY"):
        monkeypatch.setattr(app, what, 0.01)
    monkeypatch.setattr(loops, "FIRST_PAUSE", 0.1)
    (tmp_path / "id").write_text("app")

    works, broken = getattr(owner, method), False

    def sometimes(*arguments: object, **named: object) -> object:
        if broken:
            raise ZeroDivisionError
        return works(*arguments, **named)

    monkeypatch.setattr(owner, method, sometimes)
    proxy = await start_proxy(
        APP_ID="", APP_ID_FILE=str(tmp_path / "id"), SESSION__STORE=f"file://{tmp_path}/session", SESSION__EAGER="false"
    )
    assert (await proxy.admin.ask("GET /healthz")).status == 200
    broken = True
    await until(lambda: any(line.get("loop") == name for line in lines))
    health = await proxy.admin.ask("GET /healthz")
    assert health.status == 503
    assert name in health.json["not_alive"]
    broken = False
    (line, *_) = [line for line in lines if line.get("loop") == name]
    assert (line["event"], line["log_level"], line["error"]) == ("bug", "error", "ZeroDivisionError")
    await until(lambda: proxy.proxy.loops.not_alive() == [])
    assert (await proxy.admin.ask("GET /healthz")).json == {"status": "ok"}


async def test_a_background_renewal_that_died_is_tried_again(
    upstream: CardCash, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, lines: list[EventDict]
) -> None:
    monkeypatch.setattr(loops, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(app, "LOOK_EVERY", 0.05)
    upstream.lifetime = 2
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    proxy = await start_proxy(SESSION__EAGER="false")
    with monkeypatch.context() as broken:

        def breaks(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        broken.setattr(HeldToken, "due", breaks)
        await proxy.ask("GET /a")
        await until(lambda: any(line.get("loop") == "keeper" for line in lines))
        assert (await proxy.admin.ask("GET /healthz")).json["not_alive"] == ["keeper"]
    await until(lambda: proxy.proxy.loops.not_alive() == [])


async def test_health_speaks_json_that_names_nothing_while_all_is_well(
    upstream: CardCash, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy()
    assert (await proxy.admin.ask("GET /healthz")).json == {"status": "ok"}
