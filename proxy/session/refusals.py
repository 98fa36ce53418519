"""What CardCash refused and is not tried again: accounts must not be locked out (CONTRACT "Sessions").

A latch is opened by changed secrets or by an operator, and by nothing else: it outlives a restart, and holds for all who
share the store. Owns what is latched; what follows from it is the keeper's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials, SessionRefused
from proxy.session.ports import Calls
from proxy.session.renewal import Flight, make_token
from proxy.session.shared import Shelf


class Latches(dict[str, str]):
    """ "app_id" or "login" → the sentence that says what to do."""

    def __init__(self, shelf: Shelf, credentials: Callable[[], Credentials]) -> None:
        super().__init__()
        self._shelf = shelf
        self._credentials = credentials
        self._opened = 0

    def clear(self) -> None:
        """Open all of them here: an operator asks, or the secrets are others."""
        super().clear()
        self._opened += 1

    async def recall(self) -> None:
        """Take over what is on the shelf, unless the latches are opened meanwhile."""
        opened = self._opened
        found = await self._shelf.latches(self._credentials())
        if opened == self._opened:
            self.update(found)

    async def follow(self) -> None:
        """Open what another process has opened: it is no longer on the shelf."""
        if not self:
            return
        opened = self._opened
        found = await self._shelf.latches(self._credentials())
        if opened == self._opened:
            for what in self.keys() - found.keys():
                del self[what]

    async def forget(self) -> None:
        """Take everything off the shelf that is not latched here."""
        if not self:
            await self._shelf.latch({}, self._credentials())

    def fits(self, shared: Token | None) -> TypeGuard[Token]:
        """Say whether another process's token is all that a renewal could bring: with the account, unless it is refused."""
        if shared is None:
            return False
        return shared.identity is not None or not self._credentials().logs_in or "login" in self

    def leave_anonymous(self, token: Token | None) -> bool:
        """Say whether a refused login is why a request with `token` goes anonymously.

        With a login configured there is no other reason for it. A latch that was opened proves nothing yet: the mark stays
        until the login that is tried anew has succeeded.
        """
        return "login" in self or (token is not None and token.identity is None and self._credentials().logs_in)

    async def make_token(self, calls: Calls, flight: Flight, *, attempts: int) -> Token:
        """Make a token without trying what is latched. Raises as `flight.make_token` does.

        What CardCash refuses is on the shelf when this returns, so before a lease is given back: the next in line must
        not try it too. It is latched here only when the flight lands, since it may be about secrets that just changed.
        """
        if (sentence := self.get("app_id")) is not None:
            raise SessionRefused("app_id", sentence)
        # They may change while the calls are under way; what is refused then is about these.
        credentials = self._credentials()
        try:
            token = await make_token(calls, flight, attempts=attempts, login="login" not in self)
        except SessionRefused as refused:
            flight.refused = refused
            await self._remember(refused.what, str(refused), credentials)
            raise
        if flight.login_refused is not None:
            await self._remember("login", flight.login_refused, credentials)
        return token

    async def _remember(self, what: str, sentence: str, credentials: Credentials) -> None:
        await self._shelf.latch({**self, what: sentence}, credentials)
