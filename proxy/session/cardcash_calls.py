"""`POST /session`, `POST /customers/login` and the keep-alive call: what they send and what their answers mean.

Owns how a session is made, once. How often a call is tried is `call_sender.py`'s affair, when one is made the keeper's.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.clock import Clock
from proxy.core import dialect
from proxy.core.errors import Unavailable, UpstreamError
from proxy.core.failed_calls import (
    FailedCall,
    advice_for_answer,
    advice_for_kind,
    is_web_page,
    judge_failure,
    may_count,
)
from proxy.core.identity import contradicts, logged_in, refreshed
from proxy.core.rejections import Rejection, judge_rejection, read_error
from proxy.core.token import Token
from proxy.session.call_sender import CallAnswer, CallClient, CallSender


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


class ForeignLogin(SessionRefused):
    """CardCash answered the login with the token of another account; the session is nobody's to use."""

    def __init__(self, sentence: str) -> None:
        super().__init__("login", sentence)


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

    @property
    def secrets(self) -> str:
        """Everything that CardCash may refuse, as one text."""
        return json.dumps([self.app_id, self.email, self.password])

    def made(self, token: Token) -> bool:
        """Say whether the token is of this application id: not of one before it."""
        return token.app_id in ("", self.app_id)


class SessionCalls:
    """The calls to CardCash that make and keep a session. Safe for concurrent use; the keeper makes one at a time.

    `client` sends them, see `CallClient`; `host` is its origin's `Host`. `credentials` may be replaced at any time (secrets
    rotate); calls under way go on with the old ones. `failed` hears the kind of every try that failed.
    """

    def __init__(
        self,
        credentials: Credentials,
        client: CallClient,
        *,
        host: bytes,
        base_path: str,
        user_agent: str,
        clock: Clock,
        fraction: Callable[[], float] = random.random,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.credentials = credentials
        self._sender = CallSender(client, clock=clock, fraction=fraction, failed=failed)
        self._host = host.decode("ascii")
        # The session lives where the API does; a base path that is no version (say "") leaves the documented one.
        self._base = base_path if base_path.startswith("/v") else "/v3"
        self._user_agent = user_agent
        self._clock = clock

    async def session(self, *, tries: int, until: float = math.inf) -> Token:
        """Make (or get back) an anonymous session; no try is waited for beyond `until` (of the loop's time).

        Raises `SessionOutage` or `SessionRefused("app_id")`.
        """
        credentials = self.credentials
        answer = await self._call(
            "POST",
            f"{self._base}/session",
            credentials,
            tries=tries,
            until=until,
            passing=lambda answer: (
                isinstance(self._session(answer, credentials), SessionOutage) and not 300 <= answer.status < 400
            ),
        )
        session = self._session(answer, credentials)
        if isinstance(session, Exception):
            raise session
        return session

    async def login(self, session: Token, *, tries: int, until: float = math.inf) -> Token:
        """Log the session in and return the token that carries the account.

        Raises `SessionOutage`, `SessionRefused("login")` or `ForeignLogin`; `SessionTokenRejected` when the session itself
        was rejected.
        """
        credentials = self.credentials
        email, password = credentials.email, credentials.password
        assert email is not None and password is not None  # noqa: S101  # the keeper asks logs_in first
        answer = await self._call(
            "POST",
            f"{self._base}/customers/login",
            credentials,
            tries=tries,
            until=until,
            token=session,
            body=dialect.login_body(email, password),
            # A page of an edge on the way never reached the login; what may count against the account is tried again only
            # after the pause of the renewal.
            passing=lambda answer: (
                answer.status >= 400
                and not may_count(answer.status, answer.body)
                and judge_failure(answer.status, answer.body) is FailedCall.OUTAGE
            ),
        )
        if 200 <= answer.status < 300:
            found = self._harvested(answer, credentials)
            if (found is None or found.repeats(session.value)) and is_web_page(answer.body):
                # A page of the edge with 200 is no login.
                raise _outage("the login", answer, "a web page")
            token = logged_in(session, found, account=email, own=False, now=answer.sent)
            if contradicts(token.value, account=email):
                raise ForeignLogin(
                    "CardCash answered the login with the token of another account than login.email; it is not used, and "
                    "the login is not tried again: check login.email, ask CardCash whose account it is, then run "
                    "`cardcash-proxy session renew`."
                )
            return token
        verdict = judge_failure(answer.status, answer.body)
        if verdict is FailedCall.REJECTED:
            raise SessionTokenRejected(f"CardCash rejected a new session's token at login with {answer.status}.")
        if verdict is FailedCall.REFUSED:
            raise SessionRefused(
                "login",
                f"CardCash refused the login with {answer.status}; it is not tried again, so that the account is not "
                "locked: check login.email and login.password, then run `cardcash-proxy session renew`.",
            )
        raise _outage("the login", answer)

    async def keep_alive(self, token: Token, path: str) -> Token | None:
        """GET `path` with the held token, for a refresh in its answer; None when there was none.

        Raises `SessionOutage`, or `SessionTokenRejected` when CardCash knows the token no more.
        """
        credentials = self.credentials
        answer = await self._call("GET", path, credentials, tries=1, token=token)
        found = self._harvested(answer, credentials)
        newer = None if found is None else refreshed(found, sent_with=token, now=answer.sent)
        if isinstance(newer, Token):
            return newer
        if judge_rejection(answer.status, answer.body) is not Rejection.NONE:
            raise SessionTokenRejected(f"CardCash rejected the token of the keep-alive call with {answer.status}.")
        error = read_error(answer.body) if 400 <= answer.status < 500 else None
        if (error is None or not error.envelope) and (answer.status // 100 != 2 or is_web_page(answer.body)):
            # An outage, or an edge on the way: whether CardCash takes the token nobody knows.
            raise _outage("the keep-alive call", answer)
        return None

    def _session(self, answer: CallAnswer, credentials: Credentials) -> Token | SessionRefused | SessionOutage:
        if 200 <= answer.status < 300:
            wall = self._clock.now().wall
            found = dialect.session_token(answer.headers, answer.body, cookie=_cookie(credentials), wall=wall)
            if isinstance(found, dialect.Candidate):
                return Token(found.value, answer.sent, found.lifetime, app_id=credentials.app_id)
            return _outage("POST /session", answer, "no token" if found is None else f"a token that is {found.fault}")
        if judge_failure(answer.status, answer.body) is FailedCall.REFUSED:
            return SessionRefused(
                "app_id",
                f"CardCash refused the application id with {answer.status}; check app_id and environment, "
                "then run `cardcash-proxy session renew`.",
            )
        return _outage("POST /session", answer)

    def _harvested(self, answer: CallAnswer, credentials: Credentials) -> dialect.Candidate | None:
        found = dialect.harvest(answer.headers, cookie=_cookie(credentials), wall=self._clock.now().wall)
        return found if isinstance(found, dialect.Candidate) else None

    async def _call(
        self,
        method: str,
        path: str,
        credentials: Credentials,
        *,
        tries: int,
        until: float = math.inf,
        token: Token | None = None,
        body: bytes | None = None,
        passing: Callable[[CallAnswer], bool] = lambda _: False,
    ) -> CallAnswer:
        fields = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"x-cc-app: {credentials.app_id}",
            f"User-Agent: {self._user_agent}",
            "Accept: application/json",
            "Connection: close",
        ]
        if token is not None:
            fields.append(f"Authorization: {token.bearer.decode('ascii')}")
        if method == "POST":
            # CardCash requires it of every POST, the session call's empty body included.
            fields += ["Content-Type: application/json", f"Content-Length: {len(body or b'')}"]
        head = ("\r\n".join(fields) + "\r\n\r\n").encode("latin-1")
        try:
            return await self._sender.send(method, head=head, body=body, tries=tries, passing=passing, until=until)
        except (UpstreamError, Unavailable) as error:
            # Without the advice for callers: a session call may be sent again.
            why = str(error).partition(";")[0].rstrip(".")
            to_do = advice_for_kind(error.kind) if isinstance(error, UpstreamError) else ""
        raise SessionOutage(f"{method} {path} failed: {why}{f'; {to_do}' if to_do else ''}.")


def _outage(call: str, answer: CallAnswer, what: str = "") -> SessionOutage:
    """Tell of an answer that is neither a success nor a refusal; `what` it has, where the status alone does not tell."""
    to_do = advice_for_answer(answer.status, answer.body)
    return SessionOutage(
        f"CardCash answered {call} with {what or answer.status}; {to_do}.", retry_after=answer.retry_after
    )


def _cookie(credentials: Credentials) -> bytes:
    return credentials.app_id.encode("ascii")
