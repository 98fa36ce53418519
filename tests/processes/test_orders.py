"""What a worker is told at its start arrives as it is."""

from __future__ import annotations

import pickle
import socket
import threading
from pathlib import Path

import pytest

from proxy.processes.orders import Orders, packed, read
from proxy.settings import describe, load_settings

SETTINGS = {
    "CARDCASH_APP_ID": "app-zebra",
    "CARDCASH_LOGIN__EMAIL": "a@example.com",
    "CARDCASH_LOGIN__PASSWORD": "p-zebra",
    "CARDCASH_LISTEN": "127.0.0.1:1,[::1]:2,unix:/tmp/x.sock",
    "CARDCASH_CALLERS__ALLOWED_NETWORKS": "10.0.0.0/8",
    "CARDCASH_CALLERS__REQUIRE_HEADER": "X-Key: h-zebra",
    "CARDCASH_RULES": '[{"deny": "/wallets/**", "methods": ["GET"]}]' + " " * 200_000,
}


def test_the_settings_arrive_whole_secrets_included() -> None:
    orders = Orders(2, load_settings(environ=SETTINGS), (3, 4), Path("/somewhere"), 4)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=ours.sendall, args=(packed(orders),))
        writer.start()
        got = read(theirs)
        writer.join()
    assert got == orders
    assert got is not None
    assert got.settings.app_id.reveal() == "app-zebra"
    assert describe(got.settings) == describe(orders.settings)


def test_without_a_supervisor_there_are_none() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"\0\0\0")
        ours.close()
        assert read(theirs) is None


def test_secrets_are_pickled_nowhere_else() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(load_settings(environ=SETTINGS))
