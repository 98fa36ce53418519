"""What a worker process is told at its start: over the socket that is its standard input, never by argv or environment.

The settings go as they are, secrets included: all workers run with the very same ones, whatever has become of the file.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.settings import Secret, Settings

_LENGTH: Final = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Orders:
    """The settings of one worker, the descriptors it inherits, and the folder of the supervisor."""

    worker: int
    settings: Settings
    sockets: tuple[int, ...]
    folder: Path
    workers: int


class _Pickler(pickle.Pickler):
    """Pickles secrets, which refuse it elsewhere: these bytes go to no disk and to nobody but our own child."""

    def reducer_override(self, thing: object) -> Any:
        if isinstance(thing, Secret):
            return Secret, (thing.reveal(),)
        return NotImplemented


def packed(orders: Orders) -> bytes:
    """Write orders with their length."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(orders)
    return _LENGTH.pack(buffer.tell()) + buffer.getvalue()


def read(line: socket.socket) -> Orders | None:
    """Read orders, blocking; None when the supervisor is gone."""
    head = _exactly(line, _LENGTH.size)
    body = None if head is None else _exactly(line, _LENGTH.unpack(head)[0])
    if body is None:
        return None
    orders = pickle.loads(body)  # noqa: S301  # from the process that started this one
    assert isinstance(orders, Orders)  # noqa: S101
    return orders


def _exactly(line: socket.socket, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        piece = line.recv(min(size - len(got), 65536))
        if not piece:
            return None
        got += piece
    return bytes(got)
