"""The two calls of a caller that the proxy answers for CardCash: `POST /session` and `POST /customers/login`.

A legacy client that still makes a session and logs in by itself keeps working and never sees the token.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import orjson

from proxy.clock import Clock
from proxy.core.content_coding import decode
from proxy.core.dialect import Candidate, Malformed
from proxy.core.errors import BadRequest, OtherAccount, SessionUnavailable
from proxy.core.login_request import AmbiguousLogin, login_email, same_account
from proxy.core.rejections import LONGEST_REJECTION
from proxy.core.request_fields import RequestFields
from proxy.core.token import Token
from proxy.server.answers import send_json
from proxy.server.bodies import Body
from proxy.server.exchange import Exchange
from proxy.server.record import Record
from proxy.session.keeper import SessionKeeper

#: RFC 6265, 4.1.1: a token (RFC 9110, 5.6.2); and a bound on what a caller has us send back.
_COOKIE_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")

#: A caller's login gave way to another account, whose token is held; nobody is moved to that one silently.
LOST_TO_ANOTHER: Final = (
    "The login that a caller made was lost to another account, which logged in elsewhere: log in again with "
    "POST /customers/login as the account that the others carry, or run a second proxy."
)


class Accounts:
    """Answers session and login calls from the shared session. `configured_email` is None without `login`."""

    def __init__(
        self,
        keeper: SessionKeeper,
        clock: Clock,
        *,
        configured_email: Callable[[], str | None],
    ) -> None:
        self._keeper = keeper
        self._clock = clock
        self._configured_email = configured_email
        self._session_id = str(uuid.uuid4())
        self._accepted = 0

    async def answer_session(self, exchange: Exchange, record: Record) -> None:
        """Answer `POST /session` in CardCash's shape, with a placeholder and the real remaining lifetime."""
        placeholder, seconds, lines = self._stand_in(exchange, await self._keeper.token())
        body = {
            "access_token": placeholder,
            "expiresInSeconds": seconds,
            "sessionId": self._session_id,
            "renderAssets": True,
        }
        self._send(exchange, record, body, [*lines, b"x-session-id: %b" % self._session_id.encode()])

    @asynccontextmanager
    async def turn(self, email: str) -> AsyncIterator[Token | None]:
        """Wait for the turn of a caller's login as `email`.

        Yields None: it is to be forwarded now; or the token whose session is that account's already. Raises
        `OtherAccount` when the shared session is another account's, and `SessionUnavailable`.
        """
        configured = self._configured_email()
        if configured is not None:
            self._refuse_other(email, configured)
            token = await self._keeper.token()
            if token.identity is None:
                raise SessionUnavailable(
                    "CardCash refused the proxy's own login; check login.email and login.password.", retry_after=30
                )
            yield token
            return
        seen = self._accepted
        # One at a time, among all who share the session, so that the first wins.
        async with self._keeper.login_turn() as token:
            if token.identity is not None:
                self._refuse_other(email, token.identity)
                if self._accepted != seen:
                    yield token  # somebody else logged this account in while we waited: one call is enough
                    return
            yield None

    def check_not_lost(self, email: str) -> None:
        """Raise `OtherAccount` where another account was first after all.

        As when this process stood still, or the store lost what it knew, for longer than a turn is given.
        """
        held = self._keeper.held
        if held is not None and held.identity is not None:
            self._refuse_other(email, held.identity)

    def answer_login(self, exchange: Exchange, record: Record, token: Token) -> None:
        """Answer a login from the session that is logged in already."""
        _, _, lines = self._stand_in(exchange, token)
        self._send(exchange, record, {"customer": {"email": token.identity}}, lines)

    def stand_in(self, exchange: Exchange) -> list[bytes]:
        """Make the lines that a login's answer from CardCash has for the token, with the placeholder in them."""
        held = self._keeper.held
        return [] if held is None else self._stand_in(exchange, held)[2]

    def logged_in(self, found: Candidate | Malformed | None, email: str, sent_with: Token) -> None:
        """Adopt the token of a caller's accepted login; without one the session itself was logged in."""
        self._accepted += 1
        if not isinstance(found, Candidate):
            if found is not None:
                self._keeper.offer(found, sent_with=sent_with)
            found = Candidate(sent_with.value, sent_with.lifetime, tells_lifetime=False)
        self._keeper.offer(found, sent_with=sent_with, login_as=email)

    def email(self, body: Body, fields: RequestFields, start: bytes) -> str:
        """Read whose login it is; `start` is its request line. Raises `BadRequest` when that cannot be told."""
        if not body.buffered:
            raise BadRequest("The login is too large to be one.")
        data = decode(body.data, fields.content_encoding, limit=LONGEST_REJECTION)
        query = start.split(b" ")[1].partition(b"?")[2].decode("latin-1")
        try:
            return login_email(data or b"", fields.content_type, query)
        except AmbiguousLogin:
            raise BadRequest(
                'The login has no customer.email, or more than one reader could find; send {"customer": {…}}.'
            ) from None

    def _refuse_other(self, email: str, held: str) -> None:
        if not same_account(email, held):
            raise OtherAccount(
                LOST_TO_ANOTHER
                if self._keeper.identity_lost
                else "The shared session carries another account; one proxy serves one account, run a second one."
            )

    def _send(self, exchange: Exchange, record: Record, body: object, lines: list[bytes]) -> None:
        exchange.drop_body()
        record.status = 200
        send_json(exchange, 200, body, lines, request_id=record.request_id)

    def _stand_in(self, exchange: Exchange, token: Token) -> tuple[str, int, list[bytes]]:
        """Make something that a client may take for a JWT, and that is worth nothing anywhere.

        Returns it, the seconds that the real token lives, and the lines of both: the cookie is where CardCash's own SDKs
        look for it, named as their id is.
        """
        now, app_id = self._clock.now(), exchange.fields.app_id
        seconds = max(1, int(token.expires_at - now.steady))
        claims = {"iss": "cardcash-proxy", "iat": int(now.wall), "exp": int(now.wall) + seconds}
        parts = (orjson.dumps({"alg": "none", "typ": "JWT"}), orjson.dumps(claims), b"placeholder")
        placeholder = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        lines = [b"authorization: " + placeholder, b"x-token-exp-seconds: %d" % seconds]
        if _COOKIE_NAME.match(app_id):
            lines.append(b"Set-Cookie: %b=%b; Path=/; HttpOnly" % (app_id, placeholder))
        return placeholder.decode(), seconds, lines
