"""How the most lenient readers read a text: percent-decoded again and again, look-alikes as one, the invisible dropped.

For judging what a path or a field's name may be taken for, never for what is sent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

#: Percent-decoding is repeated until nothing changes, but not more often than this.
_DEEPEST_CODING: Final = 8


class CodedTooDeep(ValueError):
    """Nobody has read it to its end."""


def decodings(coded: bytes) -> Iterator[bytes]:
    """Give it as it is, and at every depth of percent-decoding. Raises `CodedTooDeep` after the deepest that is read."""
    for _ in range(_DEEPEST_CODING):
        yield coded
        if b"%" not in coded or (decoded := unquote_to_bytes(coded)) == coded:
            return
        coded = decoded
    raise CodedTooDeep


def folded(text: str) -> str:
    """Write compatible characters as one, and without case."""
    return unicodedata.normalize("NFKC", text).casefold()


def visible(text: str) -> str:
    """Leave out what is not printed."""
    return "".join(filter(str.isprintable, text))
