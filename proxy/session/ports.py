"""What the keeper is told, and what it tells: a frozen value and a Protocol, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

#: A renewal, retries and login included, ends after this many seconds.
RENEWAL_DEADLINE: Final = 10.0


class Observer(Protocol):
    """Who is told of what happens to the session; must not raise and must not wait."""

    def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
        """A renewal ended; `result` is ok, login_refused, refused, failed, same_token or superseded.

        `reason` is "store" for what another process has made: it is that one's renewal.
        """
        ...

    def renewal_took(self, seconds: float) -> None:
        """A renewal ended, well or not, after so many seconds."""
        ...

    def harvest(self, result: str) -> None:
        """A token was seen in an answer: adopted, unchanged, late, malformed, foreign, or anonymous where a login was."""
        ...

    def call_failed(self, kind: str) -> None:
        """A try of a session, login or keep-alive call failed, in one of the ways of `upstream_errors_total`."""
        ...

    def identity_lost(self) -> None:
        """The login of a caller is gone; the proxy goes on anonymously."""
        ...

    def store(self, operation: str, result: str, why: str = "") -> None:
        """The store was used.

        That is load or latch (ok, empty, failed), save (ok, lost, failed), enter (granted, news, paused, failed), extend
        (lost, failed) or lease (ok, failed).

        `why` is a sentence about a failure; it holds nothing secret.
        """
        ...

    def store_works(self) -> None:
        """The store does its work, also where it failed before and has not been used in that way since."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of `session.*`, durations in seconds."""

    renew_ahead: float = 300.0
    idle_after: float = 3600.0
    keepalive_path: str = "/v3/carts"
    #: Not a setting; shorter in tests.
    deadline: float = RENEWAL_DEADLINE
