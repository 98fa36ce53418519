"""The chunked coding of a caller's body: the same reading as of answers, within bounds, since callers may mean ill.

Must not know sockets or time.
"""

from __future__ import annotations

from typing import Final

from proxy.core.errors import BadRequest, BodyTooLarge
from proxy.http.chunks import Chunks, InvalidMessage, NoSize

#: Bytes of all extensions and trailers of a body, besides what its content allows.
_MOST_EXTRAS: Final = 64 * 1024
#: Chunks of a body; each costs some 2 µs, so a body of single bytes would hold up everybody else.
_MOST_CHUNKS: Final = 16 * 1024
#: Bytes of content that allow one more of either.
_PER_EXTRA: Final = 8
_PER_CHUNK: Final = 16


class ChunkedBody(Chunks):
    """Decodes one body. Feed it until `done`; what `feed` returns besides the content lies behind the body."""

    __slots__ = ("_chunks", "_content", "_extras")

    def __init__(self) -> None:
        super().__init__()
        self._extras = 0
        self._chunks = 0
        #: Bytes of content announced so far.
        self._content = 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the pieces of content in `data`, and what follows the end of the body.

        Raises `BadRequest` for anything that is not the chunked coding, `BodyTooLarge` for a size that is no size.
        """
        try:
            return super().feed(data)
        except NoSize:
            raise BodyTooLarge("The request body is larger than anything.") from None
        except InvalidMessage:
            raise BadRequest("The request body is not framed correctly.") from None

    def counted(self, size: int, extra: int) -> None:
        """Refuse what is out of all proportion to the content."""
        self._extras += extra
        if self._extras > _MOST_EXTRAS + self._content // _PER_EXTRA:
            raise BadRequest("The request body has too much in its chunk extensions and trailers.")
        self._chunks += 1
        if self._chunks > _MOST_CHUNKS + self._content // _PER_CHUNK:
            raise BadRequest("The request body comes in too many small chunks.")
        self._content += size
