"""Owns how a secret is held: nothing prints it by accident."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

REDACTED: Final = "********"


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

    def lines(self) -> tuple[Secret, ...]:
        """Return the secrets that stand in it one a line, without blank lines and blanks around."""
        return tuple(Secret(line.strip()) for line in self.__text.splitlines() if line.strip())

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
