"""`Upstream`: one request to the one origin, one answer, and certainty about what was sent.

Owns the order of an attempt. It never sends anything a second time: what to do after a failure is decided by
`core.backoff`, which needs to know one thing from here: `sent`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import Final

from proxy.core.values import Origin
from proxy.http.framing import check_framing, framed
from proxy.tasks import Tasks
from proxy.upstream.connection import SILENCE, Connection
from proxy.upstream.dial import dial
from proxy.upstream.pool import Pool
from proxy.upstream.response import Response
from proxy.upstream.tunnel import ProxyTunnel
from proxy.upstream.upload import SMALL, Upload

#: Bytes of an answer that are read at once; a caller who stops reading costs one of them. Twice as many cost the same, four
#: times as many a third more (a 330 kB list; the C library asks the system for pieces beyond 128 kB).
_SEGMENT: Final = 64 * 1024


class Upstream:
    """A client of one origin; safe for any number of concurrent tasks of one event loop."""

    def __init__(
        self,
        origin: Origin,
        *,
        ssl_context: ssl.SSLContext | None,
        connect_timeout: float = 5.0,
        response_timeout: float = 120.0,
        max_connections: int = 100,
        idle_timeout: float = 30.0,
        max_age: float = 300.0,
        proxy: ProxyTunnel | None = None,
    ) -> None:
        if (origin.scheme == "https") is not (ssl_context is not None):
            raise ValueError("an https origin needs a TLS context, and only an https origin")
        self._origin = origin
        self._ssl_context = ssl_context
        self._connect_timeout = connect_timeout
        self._response_timeout = response_timeout
        self._proxy = proxy
        self._uploads = Tasks()
        self._buffer = memoryview(bytearray(_SEGMENT))
        self._pool = Pool(
            self._connect,
            limit=max_connections,
            wait_timeout=connect_timeout,
            idle_timeout=idle_timeout,
            max_age=max_age,
            # Phases end at most one tick late.
            tick=max(0.01, min(1.0, response_timeout / 10, (idle_timeout or inf) / 10)),
        )

    def __repr__(self) -> str:
        return f"<Upstream {self._origin} idle={self.idle_connections} active={self.active_connections}>"

    def use_tls(self, ssl_context: ssl.SSLContext) -> None:
        """Make new connections with another context, for an https origin; those there are stay."""
        self._ssl_context = ssl_context

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return self._pool.idle

    @property
    def active_connections(self) -> int:
        """Connections that carry an exchange or are being made."""
        return self._pool.active

    @property
    def opened_total(self) -> int:
        """Connections ever made."""
        return self._pool.opened

    async def send(
        self,
        *,
        method: str,
        head: bytes | Callable[[bool], bytes],
        body: bytes | AsyncIterator[bytes] | None = None,
        chunked: bool = False,
        new_connection: bool = False,
        repeatable: bool = True,
    ) -> Response:
        """Send one request and return when the head of its answer is in.

        `head` is written as it is and must frame `body` truthfully. As a function it is called when a connection is free,
        for what must not grow old in the queue, with whether this call had to wait; what it raises is passed on, and
        nothing was sent. A body iterator belongs to this call: it is closed when the upload ends or is stopped. An
        answer of 300 or more stops the upload; one below lets it go on while the answer is read. Cancelling ends the
        attempt and its connection.

        Raises:
            UpstreamUnreachable, Overloaded: nothing was sent.
            UpstreamReset, UpstreamInvalid, UpstreamTimeout: `sent` is True.
            ValueError: head and body disagree about the framing; nothing was sent.
            BaseException: whatever the body iterator raised, unchanged.
        """
        length = check_framing(head, body, chunked=chunked) if isinstance(head, bytes) else None
        connection = None if new_connection else self._pool.take(repeatable=repeatable)
        waited = connection is None
        if connection is None:
            connection = await self._pool.acquire(new=new_connection)
        if not repeatable and connection.used and connection.clock() - connection.idle_since < SILENCE:
            connection, waited = await self._pool.listened_to(connection), True
        # No await from here to the write: the connection was found clean just now.
        if not isinstance(head, bytes):
            try:
                head = head(waited)
                # Without a body there is nothing to compare: such a head is made of fields that were read, without framing.
                length = check_framing(head, body, chunked=chunked) if body is not None or chunked else None
            except BaseException:
                self._pool.released(connection)
                raise
        upload = None
        if body is not None and not (isinstance(body, bytes) and len(body) <= SMALL):
            upload = Upload(connection, body, chunked=chunked, length=length)
        elif body or chunked:
            head += framed(body or b"", chunked=chunked)
        response = Response(connection.loop, connection)
        connection.begin(response, head, upload, head_only=method == "HEAD")
        if upload is not None:
            upload.start(self._uploads)
        try:
            while not (response.status or response.is_over()):
                await response.changed()
        except BaseException:
            response.close()
            raise
        finally:
            # A stopped upload must have let go of the caller's body before the caller is answered.
            if upload is not None and not connection.carries(response):
                await upload.settled()
        return response

    async def _connect(self, pool: Pool) -> Connection:
        connection = Connection(pool, asyncio.get_running_loop(), self._buffer, timeout=self._response_timeout)
        try:
            await dial(
                connection,
                self._origin,
                ssl_context=self._ssl_context,
                timeout=self._connect_timeout,
                proxy=self._proxy,
            )
        except BaseException:
            connection.abort()
            # uvloop never tells of the end of a connection whose making was cancelled.
            pool.ended(connection)
            raise
        return connection

    def look(self) -> None:
        """Look now, and not at the next tick, for what has taken too long or holds others up."""
        self._pool.look(asyncio.get_running_loop().time())

    async def aclose(self) -> None:
        """Close all connections; exchanges still running fail, and whoever waits gets `Draining`."""
        await self._pool.close()
        await self._uploads.close()
