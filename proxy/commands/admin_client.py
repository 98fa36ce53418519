"""How the commands talk to a running proxy: its admin port, over TCP or a unix socket, with the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.settings import ListenAddress, SettingsError, load_settings
from proxy.settings.sources import from_file


class NoAnswer(Exception):
    """No proxy answers at the admin address; the sentence names it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the admin port; `body` is its JSON, {} when it was none."""

    status: int
    body: Mapping[str, Any]


def admin_address(config: Path | None, flag: str | None) -> ListenAddress:
    """Find the first address of `admin.listen`; raises `SettingsError`.

    Nothing else of the settings is looked at: a secret file that is just being written must not fail a health check.
    """
    listen = flag or os.environ.get("CARDCASH_ADMIN__LISTEN") or _in_file(config or os.environ.get("CARDCASH_CONFIG"))
    settings = load_settings(environ={"CARDCASH_APP_ID": "unused"}, flags={"admin.listen": listen} if listen else {})
    return settings.admin.listen[0]


def _in_file(config: Path | str | None) -> str | None:
    """Read `admin.listen` of a configuration file; None where it is not set. Raises `SettingsError`."""
    if not config:
        return None
    layer = from_file(Path(config), "--config")
    if layer.unusable:
        raise SettingsError(layer.faults)
    if "admin.listen" in layer.broken:
        raise SettingsError([fault for fault in layer.faults if fault.startswith("admin.listen")])
    given = layer.given.get("admin.listen")
    listen = None if given is None else given.value
    return ",".join(map(str, listen)) if isinstance(listen, list) else None if listen is None else str(listen)


def ask(address: ListenAddress, method: str, path: str, *, timeout: float) -> Reply:
    """Send one request; `timeout` in seconds. Raises `NoAnswer`."""
    # An address that means "all of this machine's" is reached by its loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # compared, not bound
    connection = http.client.HTTPConnection(host or "localhost", address.port or None, timeout=timeout)
    try:
        if address.kind == "unix":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
            connection.sock.connect(address.path)
        connection.request(method, path)
        answer = connection.getresponse()
        raw = answer.read(1024 * 1024)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise NoAnswer(f"no proxy answers at {address} ({why}); is it running, and is admin.listen the same?") from None
    finally:
        connection.close()
    try:
        body = json.loads(raw)
    except ValueError:
        body = {}
    return Reply(answer.status, body if isinstance(body, dict) else {})
