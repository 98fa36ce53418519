"""Owns how a secret is held and how a secret file is read. Must not know which settings are secrets."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final, NoReturn

REDACTED: Final = "********"

#: Longest secret file that is read: far above any token or password, far below what hurts.
LONGEST_SECRET_FILE: Final = 64 * 1024


class Secret:
    """Hold a text that must never be printed, logged, pickled or put into JSON.

    `reveal()` is the only way to the text, so every use can be found by its name. Two secrets compare in constant
    time. An empty text is refused with ValueError: an empty password is always a mistake.
    """

    __slots__ = ("__text",)
    __text: str

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a secret must not be empty")
        object.__setattr__(self, "_Secret__text", text)

    def reveal(self) -> str:
        """Return the text itself: only to put it on the wire."""
        return self.__text

    def __repr__(self) -> str:
        return REDACTED

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class SecretFileError(ValueError):
    """A secret file cannot be used.

    `reason` is the cause without the file's name, for a setting whose file name may itself be a secret by mistake.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the file {str(path)!r} {reason}")
        self.path = path
        self.reason = reason


def read_secret_file(path: Path, *, visible_ascii: bool = False) -> Secret:
    """Read a secret from a file; raise SecretFileError that names the file, never its content.

    The content is UTF-8 text of at most 64 KiB on one line; one newline at its end (which editors and `echo` add) is
    not part of the secret. `visible_ascii` refuses blanks and letters beyond ASCII, for an application id.
    Blocks on the disk; meant to be called again when the content may have changed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_SECRET_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file name"
        raise SecretFileError(path, f"cannot be read: {reason}") from None
    if len(content) > LONGEST_SECRET_FILE:
        raise SecretFileError(path, "is larger than 64 KiB; it must hold the secret and nothing else")
    problem = None
    text = ""
    try:
        text = content.decode("utf-8-sig")  # Windows editors put a byte order mark in front
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    # Raised outside the except block: the decoder's exception carries the bytes.
    if problem:
        raise SecretFileError(path, problem)
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if not text:
        raise SecretFileError(path, "is empty; write the secret into it")
    if has_control_characters(text):
        raise SecretFileError(
            path, "has more than one line or control characters; it must hold the secret and nothing else"
        )
    if visible_ascii and not all("!" <= c <= "~" for c in text):
        raise SecretFileError(path, "has blanks or characters beyond ASCII; it must hold the secret and nothing else")
    return Secret(text)


def has_control_characters(text: str) -> bool:
    """Tell whether a text has a character that could end or split a header line (C0, DEL, C1, line separators)."""
    return any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or "\ud800" <= c <= "\udfff" for c in text)
