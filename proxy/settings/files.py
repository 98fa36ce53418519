"""How files that people name are read: regular files only, so much and no more, and never longer than a deadline.

A FIFO or a device need not have an end, and a mount that hangs does not answer, whatever was asked of it. So a thread of
its own reads each file, and is left behind when it does not come back: neither the event loop nor a command waits for it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final

#: Seconds a file may take when nothing goes on without it, and when a value that was good is still there.
AT_START: Final = 5.0
AGAIN: Final = 2.0

#: Bytes of a bundle of certificates; those of whole systems have some 300 kB.
LARGEST_BUNDLE: Final = 16 * 1024 * 1024

#: Files whose last reader has not come back: no second thread is spent on them.
_hanging: dict[Path, Future[bytes]] = {}


class Unreadable(Exception):
    """A file cannot be read; the text says why, and goes on after the file's name: "cannot be read: …"."""


def read(path: Path, *, most: int) -> bytes:
    """Read a file of at most `most` bytes, blocking for at most `AT_START` seconds. Raises `Unreadable`."""
    reading = _begin(path, most)
    try:
        return reading.result(AT_START)
    except TimeoutError:
        raise _gave_up(path, reading, AT_START) from None


async def read_again(path: Path, *, most: int) -> bytes:
    """Read a file of at most `most` bytes while the event loop goes on, for at most `AGAIN` seconds. Raises `Unreadable`."""
    reading = _begin(path, most)
    try:
        async with asyncio.timeout(AGAIN):
            return await asyncio.wrap_future(reading)
    except TimeoutError:
        raise _gave_up(path, reading, AGAIN) from None


def certificates(path: Path) -> str:
    """Read a PEM bundle with at least one certificate, blocking like `read`; for `ssl` as `cadata`. Raises `Unreadable`."""
    return bundle(read(path, most=LARGEST_BUNDLE))


def bundle(content: bytes) -> str:
    """Return the content of a PEM bundle as `ssl` wants it for `cadata`. Raises `Unreadable` without a certificate in it."""
    # What stands between the certificates is a comment, in any encoding; `ssl` wants ASCII.
    text = "".join(chr(byte) if byte < 0x80 else "?" for byte in content)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):  # ValueError: empty
        raise Unreadable("holds no certificates in PEM form") from None
    return text


def _begin(path: Path, most: int) -> Future[bytes]:
    hanging = _hanging.get(path)
    if hanging is not None:
        if not hanging.done():
            raise Unreadable("cannot be read: its disk still does not answer")
        del _hanging[path]
    reading: Future[bytes] = Future()
    # From now on it cannot be cancelled: who no longer waits leaves it alone.
    reading.set_running_or_notify_cancel()
    threading.Thread(target=_answer, args=(reading, path, most), name="file-reader", daemon=True).start()
    return reading


def _gave_up(path: Path, reading: Future[bytes], seconds: float) -> Unreadable:
    _hanging[path] = reading
    return Unreadable(f"cannot be read: its disk did not answer within {seconds:g} s")


def _answer(reading: Future[bytes], path: Path, most: int) -> None:
    try:
        content = _content(path, most)
    except Unreadable as error:
        reading.set_exception(error)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file name"
        reading.set_exception(Unreadable(f"cannot be read: {reason}"))
    else:
        reading.set_result(content)


def _content(path: Path, most: int) -> bytes:
    # Looked at first: to open a device can do things.
    _check(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _check(os.fstat(descriptor))
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most // 1024} KiB" if most < 1024 * 1024 else f"{most // (1024 * 1024)} MiB"
        raise Unreadable(f"is larger than {size}")
    return content


def _check(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable("cannot be read: it is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("cannot be read: it is no regular file")
