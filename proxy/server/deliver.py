"""An answer on its way down: looked into when it could be a rejection, scrubbed, streamed; broken ones stay broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain

from proxy.core.answer_fields import for_client, scrubbed
from proxy.core.errors import CallerGone, ProxyError, UpstreamError
from proxy.core.token import Token
from proxy.http.framing import LAST_CHUNK, chunk
from proxy.server.answers import NAME, connection_lines, date_line
from proxy.server.exchange import Exchange
from proxy.server.record import Record
from proxy.upstream import Response


class Answer:
    """A response of the upstream and what has been read of its body to look into it."""

    __slots__ = ("_failure", "details", "peeked", "response", "stand_in", "status", "token")

    def __init__(self, response: Response, token: Token | None) -> None:
        #: The token its request carried.
        self.token = token
        self.response = response
        self.status = response.status
        self.peeked: list[bytes] = []
        #: Values for `Proxy-Status: …; details=`.
        self.details: list[bytes] = []
        #: Lines that stand in for those of the token, which are taken out.
        self.stand_in: Sequence[bytes] = ()
        self._failure: UpstreamError | None = None

    def is_complete(self) -> bool:
        """Say whether all of the body is here."""
        return self._failure is None and self.response.complete

    async def peek(self, most: int) -> bytes | None:
        """Read the whole body if it is at most `most` bytes; None when it is longer, or ends before its time.

        Nothing is lost: what was read, and how it failed, is delivered later.
        """
        response = self.response
        if response.content_length is not None and response.content_length > most:
            return None
        size = 0
        try:
            while piece := await response.read():
                self.peeked.append(piece)
                size += len(piece)
                if size > most:
                    return None
        except UpstreamError as failure:
            self._failure = failure
            return None
        return b"".join(self.peeked)

    def take(self) -> list[bytes]:
        """Return everything that is here without waiting."""
        if not self.peeked and self._failure is None:
            return self.response.take()
        pieces, self.peeked = self.peeked, []
        return pieces if self._failure is not None else pieces + self.response.take()

    async def pour(
        self, write: Callable[[bytes], bool], drained: Callable[[], Awaitable[None]], unread: Callable[[], int]
    ) -> None:
        """Hand on what `take` did not return, as it comes, until the end; as `Response.pour`."""
        if self._failure is not None:
            raise self._failure
        await self.response.pour(write, drained, unread)

    def close(self) -> None:
        """Discard what is left."""
        self.response.close()


async def deliver(
    exchange: Exchange,
    answer: Answer,
    record: Record,
    origins: Iterable[bytes],
    private: Iterable[bytes],
) -> None:
    """Hand an answer down: one write when all of it is here, else piece by piece with back-pressure.

    `origins` are the upstream's, as `for_client` takes them; nothing that is `private` goes down in the head.
    Returns when a request that was answered early is out as well (RFC 9110, 7.5): its caller may still be sending it.
    Raises the upstream's error after the connection was broken for the caller to see, `CallerGone` when it left.
    """
    response = answer.response
    complete, uploading = answer.is_complete(), response.uploading
    try:
        pieces = answer.take() if response.has_body else []
        fields = response.fields
        start = b"HTTP/1.1 %d %b" % (answer.status, response.reason)
        down = for_client(fields, exchange.fields.host, origins)
        lines = [scrubbed([start, *down], private), b"X-Request-ID: " + record.request_id.encode()]
        if not fields.dated:
            lines.append(date_line())
        lines += answer.stand_in
        if answer.details:
            details = b", ".join(b'%b; details="%b"' % (NAME, detail) for detail in answer.details)
            lines.append(b"Proxy-Status: " + details)
        chunked = False
        if fields.content_length is not None:
            if answer.status != 204:
                lines.append(b"Content-Length: %d" % fields.content_length)
        elif response.has_body:
            if not exchange.http_10:
                chunked = True
                lines.append(b"Transfer-Encoding: chunked")
            elif complete:
                lines.append(b"Content-Length: %d" % sum(map(len, pieces)))
            else:
                exchange.close_after()
        if not exchange.body_at_end() and (response.last or not uploading):
            # Nobody takes the rest of the request, or soon nobody will: the caller must know (RFC 9112, 9.6).
            exchange.close_after()
        lines += *connection_lines(exchange), b"\r\n"
        if chunked:
            pieces = [*chain.from_iterable(map(chunk, pieces)), *((LAST_CHUNK,) if complete else ())]
        exchange.send(b"\r\n".join(lines), *pieces)
        record.status = answer.status
        del pieces  # or they would be kept until the end of a body that is read slowly
        if response.has_body and not complete:
            await _stream(exchange, answer, chunked=chunked)
        while uploading and response.uploading:
            await response.wait()
    except CallerGone:
        exchange.abort()
        raise
    except ProxyError:
        # The head is out: only a broken connection tells the caller that the rest is missing.
        exchange.break_off()
        raise
    finally:
        if uploading or not complete:
            answer.close()


async def _stream(exchange: Exchange, answer: Answer, *, chunked: bool) -> None:
    def pass_on_chunk(piece: bytes) -> bool:
        return exchange.pass_on(*chunk(piece))

    await answer.pour(pass_on_chunk if chunked else exchange.pass_on, exchange.drained, exchange.unread)
    if chunked:
        exchange.send(LAST_CHUNK)
    await exchange.drained()
