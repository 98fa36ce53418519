"""What the system knows of a socket and the event loop does not tell. A socket is a loop's own object, perhaps None."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios
from typing import Any


def reset_at_close(sock: Any) -> None:
    """Have a TCP connection end with a reset, so that no reader takes what came for all there was."""
    if sock is None or sock.fileno() < 0 or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # uvloop's socket object cannot set options; the descriptor can, and a second one might not be to be had.
    same = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    try:
        with contextlib.suppress(OSError):
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    finally:
        same.detach()


def unsent(sock: Any) -> int:
    """Bytes that our system has and the other's has not acknowledged, as far as ours can tell."""
    if sock is None or sock.fileno() < 0:
        return 0
    with contextlib.suppress(OSError):
        queued: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        return queued
    return 0


def is_reset(sock: Any) -> bool:
    """Say whether the other side has reset the connection."""
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # errors are reported unasked
    return bool(poll.poll(0))
