"""What the system and TLS know of a connection and the event loop does not tell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import ssl
from collections.abc import Iterator

_INTEREST = select.POLLIN | getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def watch(transport: asyncio.BaseTransport, poll: select.poll) -> None:
    """Have `poll` tell whether anything is to be read, or an end or error to be noticed, that the loop has not seen yet."""
    poll.register(transport.get_extra_info("socket").fileno(), _INTEREST)


def tls_of(transport: asyncio.BaseTransport | None) -> ssl.SSLObject | None:
    """Return the TLS of a connection, if it has any."""
    return None if transport is None else transport.get_extra_info("ssl_object")


def ended_cleanly(transport: asyncio.BaseTransport | None) -> bool:
    """Say whether an end was meant: under TLS only close_notify is one; a bare FIN can be forged (RFC 9112, 9.8)."""
    tls = tls_of(transport)
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def unread(transport: asyncio.BaseTransport, buffer: memoryview) -> Iterator[int]:
    """Read into `buffer` what the kernel still holds, yield how much: a failed write hides an answer that came before the
    reset.

    Plain TCP only; under TLS the records cannot be fed in any more.
    """
    sock = transport.get_extra_info("socket")
    if tls_of(transport) is not None or sock is None or sock.fileno() < 0:
        return
    with contextlib.suppress(OSError):
        while nbytes := os.readv(sock.fileno(), [buffer]):
            yield nbytes
