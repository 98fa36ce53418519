"""What `/status` and the page tell of the session: a snapshot without any token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from proxy.core.identity import shortened
from proxy.core.token import Moment
from proxy.session.held_token import HeldToken
from proxy.session.obstacles import Obstacles
from proxy.session.renewals import Renewals


def describe(
    held: HeldToken, obstacles: Obstacles, renewals: Renewals, *, harvests: int, now: Moment
) -> dict[str, Any]:
    """Describe the session under the names of `/status`; durations in seconds, None where no token is held."""
    token, windows = held.token, held.windows
    # Of both the application id, without which there is no session to log in.
    latched, advice = min(obstacles.refusals.items(), default=(None, None))
    expires = datetime.fromtimestamp(windows.expires_wall, UTC) if windows else None
    return {
        "state": windows.freshness(now).value if windows else "none",
        "expires_at": expires.isoformat(timespec="seconds") if expires else None,
        "expires_in_seconds": round(max(0.0, windows.expires_at - now.steady), 1) if windows else None,
        "renews_in_seconds": round(max(0.0, windows.renew_at - now.steady), 1) if windows else None,
        # Else it is renewed, or made, with the next request.
        "renews_by_itself": held.renews_by_itself(now) and "app_id" not in obstacles.refusals,
        # From its making to its end, and of the renewal window before that.
        "lifetime_seconds": round(token.expires_at - token.born.steady, 1) if token else None,
        "window_seconds": round(windows.expires_at - windows.stale_at, 1) if windows else None,
        "source": token.source.value if token else None,
        "identity": shortened(token.identity) if token and not held.identity_lost else None,
        "identity_from_caller": token is not None and token.own_login,
        "identity_lost": held.identity_lost,
        "latched": latched,
        "advice": advice,
        "refused": sorted(obstacles.refusals),
        "paused_seconds": round(obstacles.pause.left(now.steady), 3),
        "failures_in_a_row": obstacles.pause.failures,
        "renewing": renewals.current is not None,
        "waiters": renewals.waiters,
        "renewals": renewals.succeeded,
        "harvests": harvests,
    }
