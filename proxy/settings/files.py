"""How files that settings name are read: regular files only, so much and no more, and never longer than a deadline.

A FIFO or a device need not have an end, and a mount that hangs does not answer, whatever was asked of it. So a thread of
its own reads each file, and is left behind when it does not come back: neither the event loop nor a command waits for it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.core.secret import Secret
from proxy.core.values import Bad

if TYPE_CHECKING:
    import ssl

#: Seconds a file may take when nothing goes on without it, and when a value that was good is still there.
AT_START: Final = 5.0
AGAIN: Final = 2.0

#: Bytes of a bundle of certificates (those of whole systems have some 300 kB), and of a secret: far above any token.
LARGEST_BUNDLE: Final = 16 * 1024 * 1024
LARGEST_SECRET: Final = 64 * 1024

#: Files whose last reader has not come back: no second thread is spent on them.
_hanging: dict[Path, Future[bytes]] = {}


class Unreadable(Exception):
    """A file, or a value in it, cannot be used; the text goes on after its name: "cannot be read: …"."""


def read(path: Path, *, most: int) -> bytes:
    """Read a file of at most `most` bytes, blocking for at most `AT_START` seconds. Raises `Unreadable`."""
    reading = _begin(path, most)
    try:
        return reading.result(AT_START)
    except TimeoutError:
        raise _gave_up(path, reading, AT_START) from None


async def read_again(path: Path, *, most: int) -> bytes:
    """Read a file of at most `most` bytes while the event loop goes on, for at most `AGAIN` seconds. Raises `Unreadable`."""
    import asyncio  # noqa: PLC0415 - `check` does without

    reading = _begin(path, most)
    try:
        async with asyncio.timeout(AGAIN):
            return await asyncio.wrap_future(reading)
    except TimeoutError:
        raise _gave_up(path, reading, AGAIN) from None


def bundle(content: bytes) -> str:
    """Return the content of a PEM bundle as `ssl` wants it for `cadata`. Raises `Unreadable` without a certificate in it."""
    import ssl  # noqa: PLC0415 - only `upstream.ca_file` needs it

    # What stands between the certificates is a comment, in any encoding; `ssl` wants ASCII.
    text = "".join(chr(byte) if byte < 0x80 else "?" for byte in content)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):  # ValueError: empty
        raise Unreadable("holds no certificates in PEM form") from None
    return text


def check_certificate(cert: Path, key: Path) -> None:
    """Make sure that a certificate and its key can be used, blocking for some seconds at most. Raises `Unreadable`."""
    import ssl  # noqa: PLC0415 - likewise

    for path in (cert, key):
        read(path, most=LARGEST_BUNDLE)
    use_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert, key)


def use_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load what a server is shown that wants a certificate. Raises `Unreadable`."""
    try:
        # The password: a key that has one must not be asked for at a terminal.
        context.load_cert_chain(cert, key, password="")
    except OSError:  # ssl.SSLError is one
        raise Unreadable("is no certificate, or not with its own key, in PEM form") from None


class SecretForm(enum.Enum):
    """What a secret may be made of: a pattern, and what is said of a text that does not fit it."""

    ANY = r".*", ""
    #: RFC 9110 5.5: blanks at the ends of a header's value are none of it.
    HEADER_VALUE = r"[!-~](?:[ -~]*[!-~])?", "has more than visible ASCII with blanks between"
    VISIBLE = r"[!-~]+", "has blanks or characters beyond ASCII"
    #: One secret a line; blank lines are none.
    LINES = r"(?s).*\S.*", "is blank"

    def problem(self, text: str) -> str | None:
        """Say what is wrong with a secret; None if nothing is. The text is not repeated."""
        pattern, problem = self.value
        if not text:
            return "is empty"
        if has_control_characters(re.sub("\r?\n", "", text) if self is SecretForm.LINES else text):
            return "has more than one line or control characters"
        return None if re.fullmatch(pattern, text) else problem


def has_control_characters(text: str) -> bool:
    """Tell whether a text has a character that could end or split a header line (C0, DEL, C1, line separators)."""
    return any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or "\ud800" <= c <= "\udfff" for c in text)


def secret(content: bytes, form: SecretForm) -> Secret:
    """Return the secret that a file holds: UTF-8 on one line. Raises `Unreadable`, which repeats nothing of it.

    One newline at its end (which editors and `echo` add) is not part of the secret.
    """
    text = None
    # Raised outside the except block: the decoder's exception carries the bytes.
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode("utf-8-sig")  # Windows editors put a byte order mark in front
    if text is None:
        raise Unreadable("is not UTF-8 text")
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    problem = form.problem(text)
    if problem:
        raise Unreadable(f"{problem}; it must hold the secret and nothing else")
    return Secret(text)


def read_secret_file(path: Path, form: SecretForm = SecretForm.ANY) -> Secret:
    """Read a secret, blocking like `read`; raise `Bad`, which repeats neither name (it may be the secret) nor content."""
    try:
        return secret(read(path, most=LARGEST_SECRET), form)
    except Unreadable as error:
        problem = str(error)
    raise Bad(f"the file {problem}")


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
