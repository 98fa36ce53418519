"""An answer on its way down: scrubbed, streamed; broken ones stay broken."""

from __future__ import annotations

from itertools import chain

from proxy.core.answer_fields import for_client, scrubbed
from proxy.core.errors import CallerGone, ProxyError
from proxy.http.framing import LAST_CHUNK, chunk
from proxy.server.answers import connection_lines, date_line
from proxy.server.exchange import Exchange
from proxy.server.outgoing import OutgoingRequest
from proxy.upstream import Response


async def deliver(request: OutgoingRequest) -> None:
    """Hand the last answer down: one write when all of it is here, else piece by piece with back-pressure.

    Returns when a request that was answered early is out as well (RFC 9110, 7.5): its caller may still be sending it.
    Raises the upstream's error after the connection was broken for the caller to see, `CallerGone` when it left.
    """
    exchange, response, sender = request.exchange, request.response, request.sender
    assert response is not None  # noqa: S101 — there is one when its attempts are over
    complete, uploading = response.complete, response.uploading
    try:
        head, has_body = response.head, response.has_body
        pieces = response.take() if has_body else []
        length, chunked = head.content_length, False
        if length is None and has_body:
            chunked = not exchange.http_10
            if not chunked and complete:
                length = sum(map(len, pieces))
            elif not chunked:
                exchange.close_after()
        if not (exchange.body is None or exchange.body.at_end() or (head.keep_alive and uploading)):
            # Nobody takes the rest of the request, or soon nobody will: the caller must know (RFC 9112, 9.6).
            exchange.close_after()
        down = [head.start, *for_client(head, exchange.fields.host, sender.origins)]
        lines = [scrubbed(down, sender.private(request.token)), request.id_line]
        if not head.dated:
            lines.append(date_line())
        lines += request.added
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
            pieces = [*chain.from_iterable(map(chunk, pieces)), *((LAST_CHUNK,) if complete else ())]
        elif length is not None and response.status != 204:
            lines.append(b"Content-Length: %d" % length)
        lines += connection_lines(exchange)
        lines.append(b"\r\n")
        exchange.send([b"\r\n".join(lines), *pieces])
        request.record.status = response.status
        del pieces  # or they would be kept until the end of a body that is read slowly
        if has_body and not complete:
            await _stream(exchange, response, chunked=chunked)
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
            response.close()


async def _stream(exchange: Exchange, response: Response, *, chunked: bool) -> None:
    def pass_on_chunk(piece: bytes) -> bool:
        return exchange.pass_on(*chunk(piece))

    link = exchange.link
    await response.pour(pass_on_chunk if chunked else exchange.pass_on, link.drained, link.unread)
    if chunked:
        exchange.send((LAST_CHUNK,))
    await link.drained()
