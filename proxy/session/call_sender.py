"""Sends one session call on a client like that of the traffic, and again where that may help, by aiohttp-retry.

Owns when a call is sent again and how long is waited before; what its answer means is `cardcash_calls.py`'s affair::

    a try brought                                        sent again
    no connection, a reset, a time-out, half an answer   yes
    an answer that is not HTTP, or too long              no: it would come again
    an answer that asks to wait for longer than 4 s      no: the pause after the renewal is as long
    an answer, and the wait would end after `until`      no: nobody would hear of the next
    5xx                                                  yes
    what the call itself takes for passing               yes
    any other answer                                     no

Waits are a random part (full jitter) of 0.5 s doubling to 4 s, and no shorter than a `Retry-After`. How often is said by
the caller, who also sets the deadline of it all: `until`, of the loop's time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Protocol, cast

from aiohttp_retry import RetryClient, RetryOptionsBase

from proxy.clock import Clock
from proxy.core.backoff import full_jitter
from proxy.core.content_coding import decode_answer
from proxy.core.dialect import RawHeaders, header_value
from proxy.core.errors import UpstreamError, UpstreamInvalid, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from proxy.core.token import Moment

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

#: First and longest wait (seconds) between two tries.
FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 4.0
LONGEST_ANSWER: Final = 64 * 1024
#: Seconds without an answer after which a call that is cut off counts as one that CardCash did not answer; one that is
#: cut off earlier was stopped by us (new secrets, the end of the process).
SILENT: Final = 3.0
#: aiohttp-retry would log each try, and warn of a client that was not closed (2.9): here it has nothing to close.
_SILENT_LOGGER: Final = logging.Logger("proxy.session.call_sender", logging.CRITICAL + 1)


class ResponseLike(Protocol):
    """An answer as `proxy.upstream.Response` has it."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def headers(self) -> RawHeaders:
        """The header fields as they came."""
        ...

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at the end."""
        ...

    def close(self) -> None:
        """Discard the rest."""
        ...


class CallClient(Protocol):
    """What sends one request and never a second one: `proxy.upstream.Upstream`.

    It must use no connection twice: a stray answer that waits on a used one would be taken for a session. And its
    connections must not be those of the traffic, or a full pool would keep the session from being renewed.
    """

    async def send(self, *, method: str, head: bytes, body: bytes | None) -> ResponseLike:
        """Return the head of the answer. Raises `UpstreamError`, or `Unavailable` when nothing can be sent now."""
        ...


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """An answer, read to its end and decoded."""

    #: Of the request; aiohttp-retry asks for it.
    method: str
    status: int
    headers: RawHeaders = field(repr=False)
    body: bytes = field(repr=False)
    #: When the call that was answered (not an earlier try) was begun.
    sent: Moment
    #: Seconds to wait, in CardCash's words; None: it asked for none.
    retry_after: float | None = None


class CallSender:
    """Sends session calls, each up to so many times. Safe for concurrent use.

    `fraction` gives numbers from 0 to 1; `failed` hears the kind of every try that failed.
    """

    def __init__(
        self, client: CallClient, *, clock: Clock, fraction: Callable[[], float], failed: Callable[[str], None]
    ) -> None:
        self._client = client
        self._clock = clock
        self._fraction = fraction
        self._failed = failed
        self._retrying = RetryClient(cast("ClientSession", self), _SILENT_LOGGER)  # it uses `request` only

    async def send(
        self,
        method: str,
        *,
        head: bytes,
        body: bytes | None,
        tries: int,
        passing: Callable[[CallAnswer], bool],
        until: float,
    ) -> CallAnswer:
        """Send one call up to `tries` times; returns the answer that is left at the end of all tries.

        `passing` says of an answer below 500 whether another try may bring a better one. Raises `UpstreamError`, or
        `Unavailable` when nothing can be sent now.
        """
        rules = _Rules(tries, passing, self._fraction, until)
        return cast("CallAnswer", await self._retrying.request(method, "", rules, head=head, body=body))

    async def request(self, method: str, _url: str, *, head: bytes, body: bytes | None, **_: object) -> CallAnswer:
        """Try once, for aiohttp-retry."""
        sent, began, silence = self._clock.now(), time.monotonic(), "head_timeout"
        try:
            response = await self._client.send(method=method, head=head, body=body)
            silence = "body_timeout"
            content = await _whole(response)
        except UpstreamError as error:
            self._failed(error.kind)
            raise
        except asyncio.CancelledError:
            if time.monotonic() - began >= SILENT:
                self._failed(silence)
            raise
        asked = retry_after(response.headers, self._clock.now().wall)
        return CallAnswer(method, response.status, response.headers, content, sent, asked)


class _Rules(RetryOptionsBase):
    """The table above, in the shape that aiohttp-retry takes: it retries exceptions of every method."""

    def __init__(
        self, tries: int, passing: Callable[[CallAnswer], bool], fraction: Callable[[], float], until: float
    ) -> None:
        super().__init__(
            tries,
            exceptions={UpstreamUnreachable, UpstreamReset, UpstreamTimeout},
            retry_all_server_errors=False,
            evaluate_response_callback=self._stands,
        )
        self._passing = passing
        self._fraction = fraction
        self._until = until
        self._waits = 0
        self._wait = 0.0

    async def _stands(self, response: ClientResponse) -> bool:
        answer = cast("CallAnswer", response)
        if not (answer.status >= 500 or self._passing(answer)):
            return True
        self._wait = max(self._jitter(self._waits + 1), answer.retry_after or 0.0)
        return self._wait > min(LONGEST_WAIT, self._until - asyncio.get_running_loop().time())

    def get_timeout(self, attempt: int, response: ClientResponse | None = None) -> float:
        """Return the seconds to wait after so many tries."""
        self._waits = attempt
        return self._jitter(attempt) if response is None else self._wait

    def _jitter(self, attempt: int) -> float:
        return full_jitter(attempt, first=FIRST_WAIT, cap=LONGEST_WAIT, fraction=self._fraction())


async def _whole(response: ResponseLike) -> bytes:
    if response.status >= 500:
        response.close()  # whatever the page says, and however long it is
        return b""
    content = b""
    while len(content) <= LONGEST_ANSWER and (piece := await response.read()):
        content += piece
    response.close()
    decoded = decode_answer(content, response.headers, limit=LONGEST_ANSWER)
    if decoded is None:
        why = "too long to be one of a session, or in a coding that cannot be undone"
        raise UpstreamInvalid(f"CardCash's answer is {why}.", kind="invalid", sent=True)
    return decoded


def retry_after(headers: RawHeaders, wall: float) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3), seconds or a date of any of the three forms; `wall` is the Unix time.

    None where there is none that can be understood; a date that has passed is 0.
    """
    value = (header_value(headers, b"retry-after") or b"").decode("latin-1").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        # All three forms are in UTC; one of them does not say so.
        return max(0.0, parsedate_to_datetime(value).replace(tzinfo=UTC).timestamp() - wall)
    except (ValueError, OverflowError, TypeError):
        return None
