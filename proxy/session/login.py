"""`POST /session`, `POST /customers/login` and the keep-alive call (API.md 2), on aiohttp and aiohttp-retry.

Owns how a session is made, once. When and how often is the keeper's affair. These calls are the control plane: safe to
repeat, few, and never the traffic of a caller.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp_retry import RetryClient, RetryOptionsBase

from proxy.clock import Clock
from proxy.core import dialect
from proxy.core.identity import has_lost_login, marks_of_login
from proxy.core.retry import full_jitter
from proxy.core.token import Moment, Source, Token
from proxy.session.failures import describe, kind

#: First and longest wait (seconds) between tries inside one call; the whole renewal is bounded by the keeper.
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 4.0
_LONGEST_ANSWER: Final = 64 * 1024
#: Failures that say nothing about the session: the network, not CardCash. aiohttp-retry retries exceptions of every
#: method and nothing at all by default, so the list is spelt out (AIOHTTP.md 4).
_NETWORK: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientPayloadError,
)
#: aiohttp-retry tells its logger of exceptions by repr, and that of some holds the request's headers.
_SILENT: Final = logging.Logger("proxy.session.retry", logging.CRITICAL + 1)


class SessionOutage(Exception):
    """The call failed for a reason that may pass. `retry_after`: seconds CardCash asked for, or None."""

    def __init__(self, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class SessionRefused(Exception):
    """CardCash refused the application id or the login; `what` is "app_id" or "login". Trying again cannot help."""

    def __init__(self, what: str, sentence: str) -> None:
        super().__init__(sentence)
        self.what = what


class SessionTokenRejected(Exception):
    """A token was rejected by the very call that was to log it in."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are at CardCash. Never printed."""

    app_id: str = field(repr=False)
    email: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def logs_in(self) -> bool:
        """Say whether a login is configured."""
        return self.email is not None and self.password is not None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body: bytes = field(repr=False)
    #: When the call that was answered (not an earlier try) was begun.
    sent: Moment

    @property
    def retry_after(self) -> float | None:
        value = dialect.header_value(self.headers, b"retry-after")
        return float(value) if value is not None and value.isdigit() and len(value) < 6 else None


class _Tries(RetryOptionsBase):
    """The tries of one call: full jitter under a cap, bodies read inside the retries.

    Retried are failures of the network (a body that breaks off too), 5xx, and what `passing` says will pass, nothing else.
    Closes what it leaves behind: aiohttp-retry lets a failed answer hold its connection.
    """

    def __init__(
        self,
        attempts: int,
        method: str,
        clock: Clock,
        fraction: Callable[[], float],
        passing: Callable[[_Answer], bool],
        *,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(
            attempts=attempts,
            exceptions=_NETWORK,
            methods={method},
            retry_all_server_errors=True,
            evaluate_response_callback=self._read_whole,
        )
        self._clock = clock
        self._fraction = fraction
        self._passing = passing
        self._failed = failed
        self.sent = clock.now()
        self._began = time.monotonic()
        self._body: bytes | None = None

    def get_timeout(self, attempt: int, response: aiohttp.ClientResponse | None = None) -> float:
        """Return the seconds to wait before the next try."""
        asked = 0.0
        if response is not None:
            asked = _Answer(response.status, tuple(response.raw_headers), b"", self.sent).retry_after or 0.0
            response.close()
        self._body = None
        wait = full_jitter(attempt, first=_FIRST_WAIT, cap=_LONGEST_WAIT, fraction=self._fraction())
        # A longer wait would only keep callers waiting: the pause after the renewal honours it (`SessionOutage`).
        return max(wait, asked) if asked <= _LONGEST_WAIT else wait

    async def _read_whole(self, response: aiohttp.ClientResponse) -> bool:
        self._body = await self._read(response)
        answer = await self.answer(response)
        return (answer.retry_after or 0.0) > _LONGEST_WAIT or not self._passing(answer)

    async def answer(self, response: aiohttp.ClientResponse) -> _Answer:
        """Return the answer that is left at the end of all tries."""
        body = await self._read(response) if self._body is None else self._body
        return _Answer(response.status, tuple(response.raw_headers), body, self.sent)

    def begin(self) -> None:
        """Note that a try begins."""
        self.sent = self._clock.now()
        self._began = time.monotonic()

    def fail(self, error: BaseException, *, in_body: bool = False) -> None:
        """Count a try that failed."""
        if (name := kind(error, silent_for=time.monotonic() - self._began, in_body=in_body)) is not None:
            self._failed(name)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        try:
            async for piece in response.content.iter_chunked(16 * 1024):
                content += piece
                if len(content) > _LONGEST_ANSWER:
                    break
            else:
                return bytes(content)
        except BaseException as error:
            self.fail(error, in_body=True)
            response.close()
            raise
        response.close()
        raise SessionOutage("CardCash's answer is too long to be one of a session.")


async def _note_start(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx["tries"].begin()


async def _note_failure(
    _: aiohttp.ClientSession, context: SimpleNamespace, end: aiohttp.TraceRequestExceptionParams
) -> None:
    context.trace_request_ctx["tries"].fail(end.exception)


class SessionCalls:
    """The calls to CardCash that make and keep a session. Safe for concurrent use; the keeper makes one at a time.

    `credentials` may be replaced at any time (secrets rotate); calls under way go on with the old ones. `failed` hears the
    kind of every try that failed.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        origin: str,
        base_path: str,
        user_agent: str,
        clock: Clock,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 5.0,
        proxy: str | None = None,
        proxy_authorization: bytes | None = None,
        fraction: Callable[[], float] = random.random,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.credentials = credentials
        self._origin = origin
        # The session lives where the API does; a base path that is no version (say "") leaves the documented one.
        self._base = base_path if base_path.startswith("/v") else "/v3"
        self._user_agent = user_agent
        self._clock = clock
        self._ssl = ssl_context
        self._connect_timeout = connect_timeout
        self._proxy = proxy
        self._proxy_headers = {"Proxy-Authorization": proxy_authorization.decode()} if proxy_authorization else None
        self._fraction = fraction
        self._failed = failed
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def session(self, *, attempts: int) -> Token:
        """Make (or get back) an anonymous session. Raises `SessionOutage` or `SessionRefused("app_id")`."""
        credentials = self.credentials
        answer = await self._call(
            "POST",
            f"{self._base}/session",
            credentials,
            attempts=attempts,
            passing=lambda answer: (
                self._session_token(answer, credentials) is None
                and not 300 <= answer.status < 400
                and dialect.judge_failure(answer.status, answer.body) is not dialect.Verdict.REFUSED
            ),
        )
        if 200 <= answer.status < 300:
            found = self._session_token(answer, credentials)
            if found is not None:
                return Token(found.value, answer.sent, found.lifetime, Source.SESSION, app_id=credentials.app_id)
            raise SessionOutage("CardCash answered POST /session without a token.")
        if dialect.judge_failure(answer.status, answer.body) is dialect.Verdict.REFUSED:
            raise SessionRefused(
                "app_id",
                f"CardCash refused the application id with {answer.status}; check app_id and environment, "
                "then run `cardcash-proxy session renew`.",
            )
        raise SessionOutage(f"CardCash answered POST /session with {answer.status}.", retry_after=answer.retry_after)

    async def login(self, session: Token, *, attempts: int) -> Token:
        """Log the session in and return the token that carries the account.

        Raises `SessionOutage` or `SessionRefused("login")`; `SessionTokenRejected` when the session itself was rejected.
        """
        credentials = self.credentials
        email, password = credentials.email, credentials.password
        assert email is not None and password is not None  # noqa: S101  # the keeper asks logs_in first
        answer = await self._call(
            "POST",
            f"{self._base}/customers/login",
            credentials,
            attempts=attempts,
            token=session,
            body=dialect.login_body(email, password),
            # A page of the edge never reached the login; a 429 may count against the account.
            passing=lambda answer: (
                400 <= answer.status < 500
                and answer.status != 429
                and dialect.judge_failure(answer.status, answer.body) is dialect.Verdict.OUTAGE
            ),
        )
        if 200 <= answer.status < 300:
            found = self._harvested(answer, credentials)
            if found is not None:
                marks = marks_of_login(session.value, found.value)
                return replace(
                    session,
                    value=found.value,
                    born=answer.sent,
                    lifetime=found.lifetime,
                    source=Source.LOGIN,
                    identity=email,
                    marks=marks,
                )
            if answer.body.lstrip().startswith(b"<"):
                # A page of the edge with 200 is no login.
                raise SessionOutage("A web page came instead of CardCash's answer to the login.")
            # No new token: the session itself was logged in.
            return replace(session, source=Source.LOGIN, identity=email)
        verdict = dialect.judge_failure(answer.status, answer.body)
        if verdict is dialect.Verdict.REJECTED:
            raise SessionTokenRejected(f"CardCash rejected a new session's token at login with {answer.status}.")
        if verdict is dialect.Verdict.REFUSED:
            raise SessionRefused(
                "login",
                f"CardCash refused the login with {answer.status}; it is not tried again, so that the account is not "
                "locked: check login.email and login.password, then run `cardcash-proxy session renew`.",
            )
        raise SessionOutage(f"CardCash answered the login with {answer.status}.", retry_after=answer.retry_after)

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        """GET `path` with the held token, for a refresh in its answer; None when there was none.

        Raises `SessionOutage`, or `SessionTokenRejected` when CardCash knows the token no more.
        """
        credentials = self.credentials
        answer = await self._call("GET", path, credentials, attempts=1, token=token)
        found = self._harvested(answer, credentials)
        if found is not None and found.value != token.value and not has_lost_login(token.marks, found.value):
            return replace(token, value=found.value, born=answer.sent, lifetime=found.lifetime, source=Source.HARVEST)
        if dialect.is_token_rejection(answer.status, answer.body) is not dialect.Rejection.NONE:
            raise SessionTokenRejected(f"CardCash rejected the token of the keep-alive call with {answer.status}.")
        return None

    def _session_token(self, answer: _Answer, credentials: Credentials) -> dialect.Candidate | None:
        if not 200 <= answer.status < 300:
            return None
        wall = self._clock.now().wall
        return dialect.session_token(answer.headers, answer.body, cookie=_cookie(credentials), wall=wall)

    def _harvested(self, answer: _Answer, credentials: Credentials) -> dialect.Candidate | None:
        found = dialect.harvest(answer.headers, cookie=_cookie(credentials), wall=self._clock.now().wall)
        return found if isinstance(found, dialect.Candidate) else None

    async def _call(
        self,
        method: str,
        path: str,
        credentials: Credentials,
        *,
        attempts: int,
        token: Token | None = None,
        body: bytes | None = None,
        passing: Callable[[_Answer], bool] = lambda _: False,
    ) -> _Answer:
        headers = {"x-cc-app": credentials.app_id, "User-Agent": self._user_agent, "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = token.bearer.decode("ascii")
        if method == "POST":
            # CardCash requires it of every POST, the session call's empty body included.
            headers["Content-Type"] = "application/json"
        tries = _Tries(attempts, method, self._clock, self._fraction, passing, failed=self._failed)
        retrying = RetryClient(client_session=self._session(), retry_options=tries, logger=_SILENT)
        try:
            async with retrying.request(
                method,
                self._origin + path,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
                trace_request_ctx={"tries": tries},
            ) as response:
                return await tries.answer(response)
        except aiohttp.ClientError as error:
            why = describe(error)
        # Outside of the except block, so that no library error, which knows the headers, hangs on as context.
        raise SessionOutage(f"{method} {path} failed: {why}.")

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_start.append(_note_start)
            trace.on_request_exception.append(_note_failure)
            self._client = aiohttp.ClientSession(
                # No connection is kept: a stray answer on an idle one would be taken for a session (AIOHTTP.md 1, 2).
                connector=aiohttp.TCPConnector(force_close=True, limit=8, ssl=self._ssl or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_field_size=16 * 1024,
                trace_configs=[trace],
            )
            # aiohttp sends idempotent requests again by itself (AIOHTTP.md 1, 3); retries are aiohttp-retry's here.
            self._client._retry_connection = False
        return self._client


def _cookie(credentials: Credentials) -> bytes:
    return credentials.app_id.encode("ascii")
