"""What the commands do with a running proxy, through its admin port; each returns its exit code.

Imports settings only when a command runs: starting fast is a feature of `health`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.process import BAD_USAGE, FAILED, OK, complain

if TYPE_CHECKING:
    from proxy.commands.admin_client import Reply

#: Seconds between two looks of `wait`.
_LOOK_EVERY: Final = 0.1


def health(config: Path | None, admin: str | None) -> int:
    """Say whether the process and its session keeper are alive."""
    reply = _asked(config, admin, "GET", "/healthz", timeout=3)
    if isinstance(reply, int):
        return reply
    print("ok" if reply.status == 200 else f"not healthy: {reply.status}")
    return OK if reply.status == 200 else FAILED


def wait(config: Path | None, admin: str | None, *, timeout: float) -> int:
    """Return when /readyz says 200; when `timeout` seconds are over, tell what stands against it."""
    end = time.monotonic() + timeout
    while True:
        reply = _asked(config, admin, "GET", "/readyz", timeout=3, quiet=time.monotonic() < end)
        if reply == BAD_USAGE:
            return BAD_USAGE
        if not isinstance(reply, int) and reply.status == 200:
            print("ready")
            return OK
        if time.monotonic() >= end:
            if not isinstance(reply, int):
                complain("not ready: " + "; ".join(map(str, reply.body.get("because", [reply.status]))))
            return FAILED
        time.sleep(_LOOK_EVERY)


def shutdown(config: Path | None, admin: str | None) -> int:
    """Ask for a drain and stop."""
    reply = _asked(config, admin, "POST", "/shutdown", timeout=5)
    if isinstance(reply, int):
        return reply
    if reply.status != 202:
        return _refused(reply)
    print("draining")
    return OK


def session_status(config: Path | None, admin: str | None, *, as_json: bool) -> int:
    """Print the session of the running proxy."""
    reply = _asked(config, admin, "GET", "/status", timeout=5)
    return reply if isinstance(reply, int) else _told(reply, as_json=as_json)


def session_renew(config: Path | None, admin: str | None, *, as_json: bool) -> int:
    """Renew the session and print it."""
    # A renewal ends within 10 s; another may have to end before it.
    reply = _asked(config, admin, "POST", "/session/renew", timeout=25)
    return reply if isinstance(reply, int) else _told(reply, as_json=as_json)


def _asked(
    config: Path | None, admin: str | None, method: str, path: str, *, timeout: float, quiet: bool = False
) -> Reply | int:
    """Ask the running proxy; an exit code after the fault was told (unless `quiet`)."""
    from proxy.commands.admin_client import NoAnswer, admin_address, ask
    from proxy.settings import SettingsError

    try:
        return ask(admin_address(config, admin), method, path, timeout=timeout)
    except SettingsError as error:
        for fault in error.faults:
            complain(fault)
        return BAD_USAGE
    except NoAnswer as error:
        if not quiet:
            complain(str(error))
        return FAILED


def _refused(reply: Reply) -> int:
    complain(" ".join(map(str, reply.body.get("message", [f"the proxy answered {reply.status}"]))))
    return FAILED


def _told(reply: Reply, *, as_json: bool) -> int:
    """Print the session of an answer, or its error."""
    if reply.status != 200:
        return _refused(reply)
    session = reply.body.get("session", {})
    if as_json:
        print(json.dumps(session, indent=2, ensure_ascii=False))
        return OK
    width = max(map(len, session), default=0)
    for name, value in session.items():
        shown = (
            "-" if value is None or value == [] else ("yes" if value else "no") if isinstance(value, bool) else value
        )
        print(f"{name.replace('_', ' '):{width}}  {', '.join(shown) if isinstance(shown, list) else shown}")
    return OK
