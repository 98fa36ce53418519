"""Owns how a secret file is read, and what a secret may be made of. Must not know which settings are secrets."""

from __future__ import annotations

import contextlib
import enum
import re
from pathlib import Path
from typing import Final

from proxy.core.secret import Secret
from proxy.settings import files

#: Longest secret file that is read: far above any token or password, far below what hurts.
LONGEST_SECRET_FILE: Final = 64 * 1024


class SecretForm(enum.Enum):
    """What a secret may be made of: a pattern, and what is said of a text that does not fit it."""

    ANY = r".*", ""
    #: RFC 9110 5.5: blanks at the ends of a header's value are none of it.
    HEADER_VALUE = r"[!-~](?:[ -~]*[!-~])?", "has more than visible ASCII with blanks between"
    VISIBLE = r"[!-~]+", "has blanks or characters beyond ASCII"

    def problem(self, text: str) -> str | None:
        """Say what is wrong with a secret; None if nothing is. The text is not repeated."""
        pattern, problem = self.value
        if not text:
            return "is empty"
        if has_control_characters(text):
            return "has more than one line or control characters"
        return None if re.fullmatch(pattern, text) else problem


class SecretFileError(ValueError):
    """A secret file cannot be used. Its name is never part of the sentence: it may be the secret, by mistake."""


def read_secret_file(path: Path, form: SecretForm = SecretForm.ANY) -> Secret:
    """Read a secret from a file; raise SecretFileError, which repeats neither name nor content.

    The content is UTF-8 text of at most 64 KiB on one line; one newline at its end (which editors and `echo` add) is
    not part of the secret. Blocks on the disk, for some seconds at most.
    """
    try:
        content = files.read(path, most=LONGEST_SECRET_FILE)
    except files.Unreadable as error:
        problem = str(error)
    else:
        return _secret(content, form)
    raise SecretFileError(f"the file {problem}")


async def read_secret_file_again(path: Path, form: SecretForm = SecretForm.ANY) -> Secret:
    """Do the same while the event loop goes on: for when the content may have changed."""
    try:
        content = await files.read_again(path, most=LONGEST_SECRET_FILE)
    except files.Unreadable as error:
        problem = str(error)
    else:
        return _secret(content, form)
    raise SecretFileError(f"the file {problem}")


def _secret(content: bytes, form: SecretForm) -> Secret:
    text = None
    # Raised outside the except block: the decoder's exception carries the bytes.
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode("utf-8-sig")  # Windows editors put a byte order mark in front
    if text is None:
        raise SecretFileError("the file is not UTF-8 text")
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    problem = form.problem(text)
    if problem:
        raise SecretFileError(f"the file {problem}; it must hold the secret and nothing else")
    return Secret(text)


def has_control_characters(text: str) -> bool:
    """Tell whether a text has a character that could end or split a header line (C0, DEL, C1, line separators)."""
    return any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or "\ud800" <= c <= "\udfff" for c in text)
