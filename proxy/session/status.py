"""What `/status`, the page and the metrics tell of the session: a snapshot without any token."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.token import Moment
from proxy.session.held_token import HeldToken
from proxy.session.obstacles import Obstacles


@dataclass(frozen=True, slots=True)
class Status:
    """The session at one moment; durations in seconds, None where no token is held."""

    state: str
    expires_wall: float | None
    expires_in: float | None
    renews_in: float | None
    #: From its making to its end, and of the renewal window before that.
    lifetime: float | None
    window: float | None
    source: str | None
    identity: str | None
    own_login: bool
    identity_lost: bool
    refused: str | None
    refusal: str | None
    paused_for: float
    failures: int
    renewals: int
    harvests: int
    renewing: bool
    waiters: int


def describe(
    held: HeldToken,
    obstacles: Obstacles,
    now: Moment,
    *,
    renewals: int,
    harvests: int,
    waiters: int | None,
) -> Status:
    """Describe the session; `waiters` wait for the renewal under way, None: there is none."""
    token, windows = held.token, held.windows
    what, sentence = next(iter(obstacles.refusals.items()), (None, None))
    return Status(
        state="none" if windows is None else windows.freshness(now).value,
        expires_wall=windows.expires_wall if windows else None,
        expires_in=max(0.0, windows.expires_at - now.steady) if windows else None,
        renews_in=max(0.0, windows.renew_at - now.steady) if windows else None,
        lifetime=windows.expires_at - token.born.steady if token and windows else None,
        window=windows.expires_at - windows.stale_at if windows else None,
        source=token.source.value if token else None,
        identity=token.identity if token and not held.identity_lost else None,
        own_login=token.own_login if token else False,
        identity_lost=held.identity_lost,
        refused=what,
        refusal=sentence,
        paused_for=obstacles.pause.left(now.steady),
        failures=obstacles.pause.failures,
        renewals=renewals,
        harvests=harvests,
        renewing=waiters is not None,
        waiters=waiters or 0,
    )
