"""How the commands talk to a running proxy: its admin port, over TCP or a unix socket, by one raw socket.

Imports neither settings nor a client: starting fast is a feature of `health`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from proxy.commands.flags import Parser, add_config
from proxy.core.values import ADMIN_LISTEN, Bad, ListenAddress, bracketed, each_part, ip_address, listen_address, shown
from proxy.process import BadUsage, Failed

#: Bytes of an answer that are read.
_MOST: Final = 1024 * 1024
_ADVICE: Final = "is it running, and is admin.listen the same?"


class NoAnswer(Failed):
    """No proxy answers at the admin address; the sentence names it."""


class Reply(NamedTuple):
    """An answer of the admin port; `body` is its JSON."""

    status: int
    body: Mapping[str, Any]


def add_admin(parser: Parser) -> None:
    """Add the flags that say where the admin port of the running proxy is."""
    add_config(parser)
    parser.add_argument("--admin-listen", metavar="ADDRESS", help=f"its admin port, as set there ({ADMIN_LISTEN})")
    parser.check = address_in


def asked(options: argparse.Namespace, method: str, path: str, *, timeout: float, want: int | None = None) -> Reply:
    """Ask the running proxy. Raises `BadUsage`, `NoAnswer`, and `Failed` where the answer has not the status `want`."""
    reply = ask(address_in(options), method, path, timeout=timeout)
    if reply.status != (want or reply.status):
        raise Failed(" ".join(map(str, reply.body.get("message", [f"the proxy answered {reply.status}"]))))
    return reply


def address_in(options: argparse.Namespace) -> ListenAddress:
    """Find the address to ask at. Raises `BadUsage`."""
    try:
        return admin_address(options.config, options.admin_listen)
    except Bad as bad:
        raise BadUsage(*(fault for _, fault in bad.problems)) from None


def admin_address(config: Path | None, flag: str | None) -> ListenAddress:
    """Find the first address of `admin.listen` that says where it is; raises `Bad`.

    Nothing else of the settings is looked at: a secret file that is just being written must not fail a health check.
    """
    where, listen = "flag --admin-listen", flag
    if not listen:
        where, listen = "environment variable CARDCASH_ADMIN__LISTEN", os.environ.get("CARDCASH_ADMIN__LISTEN")
    file = config or os.environ.get("CARDCASH_CONFIG")
    given: object = listen
    if not listen and file:
        from proxy.settings.sources import admin_listen

        where, given = admin_listen(Path(file), "--config" if config else "CARDCASH_CONFIG")
    if not given:
        return ADMIN_LISTEN
    try:
        addresses = [listen_address(part) for part in each_part(given) or [""]]
        for address in addresses:
            if address.kind != "fd":
                return address
        problem = f"only the proxy has the socket {addresses[0]}; say where it listens with --admin-listen HOST:PORT"
    except Bad as bad:
        problem = f"admin.listen ({where}): {bad}"
    raise Bad(problem)


def ask(address: ListenAddress, method: str, path: str, *, timeout: float) -> Reply:
    """Send one request; `timeout` in seconds. Raises `NoAnswer`."""
    host = "localhost" if address.kind == "unix" else f"{bracketed(_reached_by(address.host))}:{address.port}"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    try:
        with _connected(address, timeout) as sock, sock.makefile("rb") as answer:
            sock.sendall(head.encode())
            first = answer.readline(_MOST)
            fields = {}
            while line := answer.readline(_MOST).strip():
                name, _, value = line.partition(b":")
                fields[name.lower()] = value.strip()
            length = fields.get(b"content-length", b"")
            body = answer.read(min(int(length), _MOST) if length.isdigit() else _MOST)
    except OSError as error:
        why = error.strerror or f"nothing came within {timeout:g} s"
        raise NoAnswer(f"no proxy answers at {address} ({why}); {_ADVICE}") from None
    words = first.split(None, 2)
    if not first.startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        said = shown(first.decode("latin-1").strip()) if first.strip() else "nothing"
        raise NoAnswer(f"what answers at {address} is no admin port, it says {said}; {_ADVICE}")
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not _of_admin_port(found):
        server = f" by {shown(fields[b'server'].decode('latin-1'))}" if b"server" in fields else ""
        said = f"it answered {int(words[1])}{server}"
        raise NoAnswer(f"what answers at {address} is no admin port of cardcash-proxy: {said}; {_ADVICE}")
    return Reply(int(words[1]), found)


def _of_admin_port(body: object) -> TypeGuard[Mapping[str, Any]]:
    """Say whether an admin port answers so. The port of callers alone speaks of its upstream."""
    if not isinstance(body, dict) or str(body.get("error", "")).startswith("upstream_"):
        return False
    return not {"status", "session", "error"}.isdisjoint(body)


def _reached_by(host: str) -> str:
    """Reach an address that means "all of this machine's" by its loopback, and call it so: no Host is named 0.0.0.0."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound


def _connected(address: ListenAddress, timeout: float) -> socket.socket:
    host = _reached_by(address.host)
    literal = ip_address(host)
    if address.kind == "tcp" and literal is None:
        return socket.create_connection((host, address.port), timeout)
    family = socket.AF_UNIX if literal is None else socket.AF_INET6 if literal.version == 6 else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(timeout)
    try:
        sock.connect(address.path if address.kind == "unix" else (host, address.port))
    except OSError:
        sock.close()
        raise
    return sock
