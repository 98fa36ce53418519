"""`POST /session`, `POST /customers/login` and the keep-alive call (API.md 2), on aiohttp and aiohttp-retry.

Owns how a session is made, once. When and how often is the keeper's affair. These calls are the control plane: safe to
repeat, few, and never the traffic of a caller.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from aiohttp_retry import RetryClient, RetryOptionsBase

from proxy.clock import Clock
from proxy.core import dialect
from proxy.core.retry import full_jitter
from proxy.core.token import Source, Token

#: First and longest wait (seconds) between tries inside one call; the whole renewal is bounded by the keeper.
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 3.0
_LONGEST_ANSWER: Final = 64 * 1024
#: Failures that say nothing about the session: the network, not CardCash. aiohttp-retry retries exceptions of every
#: method and nothing at all by default, so the list is spelt out (AIOHTTP.md 4).
_NETWORK: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.SocketTimeoutError,
)


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
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)

    @property
    def retry_after(self) -> float | None:
        value = dialect.header_value(self.headers, b"retry-after")
        return float(value) if value is not None and value.isdigit() and len(value) < 6 else None


class _FullJitter(RetryOptionsBase):
    """Full jitter under a cap; closes the failed answer, which aiohttp-retry leaves holding its connection."""

    def __init__(self, attempts: int, method: str, fraction: Callable[[], float]) -> None:
        super().__init__(
            attempts=attempts,
            statuses={500, 502, 503, 504},
            exceptions=_NETWORK,
            methods={method},
            retry_all_server_errors=False,
        )
        self._fraction = fraction

    def get_timeout(self, attempt: int, response: aiohttp.ClientResponse | None = None) -> float:
        """Return the seconds to wait before the next try."""
        if response is not None:
            response.close()
        return full_jitter(attempt, first=_FIRST_WAIT, cap=_LONGEST_WAIT, fraction=self._fraction())


class SessionCalls:
    """The calls to CardCash that make and keep a session. Safe for concurrent use; the keeper makes one at a time.

    `credentials` may be replaced at any time (secrets rotate); calls under way go on with the old ones.
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
        self._client: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def session(self, *, attempts: int) -> Token:
        """Make (or get back) an anonymous session. Raises `SessionOutage` or `SessionRefused("app_id")`."""
        born = self._clock.now()
        answer = await self._call("POST", f"{self._base}/session", attempts=attempts)
        if 200 <= answer.status < 300:
            found = dialect.session_token(answer.headers, answer.body, cookie=self._cookie, wall=self._clock.now().wall)
            if found is not None:
                return Token(found.value, born, found.lifetime, Source.SESSION)
            raise SessionOutage("CardCash answered POST /session without a token.")
        if dialect.judge_failure(answer.status, answer.body) is dialect.Verdict.REFUSED:
            raise SessionRefused(
                "app_id",
                f"CardCash refused the application id with {answer.status}; check app_id and environment, "
                "then run `cardcash-proxy session renew` or restart.",
            )
        raise SessionOutage(f"CardCash answered POST /session with {answer.status}.", retry_after=answer.retry_after)

    async def login(self, session: Token, *, attempts: int) -> Token:
        """Log the session in and return the token that carries the account.

        Raises `SessionOutage` or `SessionRefused("login")`; `SessionTokenRejected` when the session itself was rejected.
        """
        email, password = self.credentials.email, self.credentials.password
        assert email is not None and password is not None  # noqa: S101  # the keeper asks logs_in first
        born = self._clock.now()
        answer = await self._call(
            "POST",
            f"{self._base}/customers/login",
            attempts=attempts,
            token=session,
            body=dialect.login_body(email, password),
        )
        if 200 <= answer.status < 300:
            found = dialect.harvest(answer.headers, cookie=self._cookie, wall=self._clock.now().wall)
            if isinstance(found, dialect.Candidate):
                return Token(found.value, born, found.lifetime, Source.LOGIN, identity=email)
            # No new token: the session itself was logged in.
            return Token(session.value, session.born, session.lifetime, Source.LOGIN, identity=email)
        verdict = dialect.judge_failure(answer.status, answer.body)
        if verdict is dialect.Verdict.REJECTED:
            raise SessionTokenRejected(f"CardCash rejected a new session's token at login with {answer.status}.")
        if verdict is dialect.Verdict.REFUSED:
            raise SessionRefused(
                "login",
                f"CardCash refused the login with {answer.status}; it is not tried again, so that the account is not "
                "locked: check login.email and login.password, then run `cardcash-proxy session renew` or restart.",
            )
        raise SessionOutage(f"CardCash answered the login with {answer.status}.", retry_after=answer.retry_after)

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        """GET `path` with the held token, for a refresh in its answer; None when there was none."""
        born = self._clock.now()
        answer = await self._call("GET", path, attempts=1, token=token)
        found = dialect.harvest(answer.headers, cookie=self._cookie, wall=self._clock.now().wall)
        if not isinstance(found, dialect.Candidate) or found.value == token.value:
            return None
        return Token(found.value, born, found.lifetime, Source.HARVEST, token.identity, token.own_login)

    @property
    def _cookie(self) -> bytes:
        return self.credentials.app_id.encode("ascii")

    async def _call(
        self, method: str, path: str, *, attempts: int, token: Token | None = None, body: bytes | None = None
    ) -> _Answer:
        headers = {"x-cc-app": self.credentials.app_id, "User-Agent": self._user_agent, "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = token.bearer.decode("ascii")
        if body is not None:
            headers["Content-Type"] = "application/json"
        retrying = RetryClient(
            client_session=self._session(), retry_options=_FullJitter(attempts, method, self._fraction)
        )
        try:
            async with retrying.request(
                method,
                self._origin + path,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
            ) as response:
                content = bytearray()
                async for piece in response.content.iter_chunked(16 * 1024):
                    content += piece
                    if len(content) > _LONGEST_ANSWER:
                        raise SessionOutage(f"CardCash's answer to {method} {path} is too long to be one.")
                return _Answer(response.status, tuple(response.raw_headers), bytes(content))
        except aiohttp.ClientError as error:
            # Not str(error): parser errors repeat the bytes they choked on.
            raise SessionOutage(f"{method} {path} failed: {_describe(error)}.") from None

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                # No connection is kept: a stray answer on an idle one would be taken for a session (AIOHTTP.md 1, 2).
                connector=aiohttp.TCPConnector(force_close=True, limit=8, ssl=self._ssl or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_field_size=16 * 1024,
            )
            # aiohttp sends idempotent requests again by itself (AIOHTTP.md 1, 3); retries are aiohttp-retry's here.
            self._client._retry_connection = False
        return self._client


def _describe(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the TLS certificate of the upstream is not valid; check upstream.origin and upstream.ca_file"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the upstream's name could not be resolved; check DNS and upstream.origin"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection to the upstream could be made"
    if isinstance(error, (aiohttp.SocketTimeoutError, aiohttp.ConnectionTimeoutError)):
        return "the upstream did not answer in time"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        return "the upstream closed the connection"
    return f"the upstream's answer was not valid ({type(error).__name__})"
