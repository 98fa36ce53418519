"""The supervisor looks after its workers."""

from __future__ import annotations

import os
import signal

import pytest

from proxy.processes import supervisor
from proxy.settings import load_settings
from tests.server.harness import APP_ID, RawUpstream, until


async def test_a_stuck_worker_is_killed_and_started_again(
    upstream: RawUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(supervisor, "MOST_SILENCES", 1)
    environ = {
        "CARDCASH_APP_ID": APP_ID,
        "CARDCASH_UPSTREAM__ORIGIN": upstream.url,
        "CARDCASH_LISTEN": "127.0.0.1:0",
        "CARDCASH_ADMIN__LISTEN": "127.0.0.1:0",
        "CARDCASH_WORKERS": "2",
    }
    async with supervisor.Supervisor(load_settings(environ=environ), share_log=lambda _: None) as running:
        stuck = running._children[0]
        before = stuck.pid
        assert before is not None
        os.kill(before, signal.SIGSTOP)
        await until(lambda: stuck.state == "up" and stuck.pid != before, seconds=20)
        assert stuck.restarts == 1
