"""Tokens of the simulator: real HS256 JWTs, their lives, the refresh window, revocation, login and lock-out.

Owns the table of issued tokens, which alone decides validity. Knows nothing of HTTP.
"""

from __future__ import annotations

import secrets
import uuid
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import jwt

from proxy.simulator.settings import Context

TABLE_SIZE = 20_000  # tokens remembered; the oldest are forgotten and then judged by signature only


@dataclass(slots=True, eq=False)
class Issued:
    """One token. `ended` says why it is no longer good: "" | superseded | revoked | expired."""

    value: str
    app_id: str
    session_id: str
    issued_at: float
    expires_at: float
    email: str | None = None
    ended: str = ""
    successor: Issued | None = None


class TooManySessionsError(Exception):
    """POST /session is refused by a limit; `retry_after` in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many sessions")
        self.retry_after = retry_after


class LoginRefusedError(Exception):
    """The login is refused; `locked` when the password was not even looked at."""

    def __init__(self, *, locked: bool) -> None:
        super().__init__("locked" if locked else "refused")
        self.locked = locked


class Sessions:
    """Issue, judge, refresh and end tokens (core/README.md, "Sessions and tokens")."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # New for each instance: a token of an earlier process is an "invalid signature", as after a key change.
        self._key = secrets.token_hex(32)
        self._table: OrderedDict[str, Issued] = OrderedDict()
        self._by_session: dict[str, list[Issued]] = {}
        self._last: dict[str, Issued] = {}
        self._failures: Counter[str] = Counter()
        self._locked_until: dict[str, float] = {}
        self._session_calls: deque[float] = deque()
        self._forced: deque[dict[str, Any]] = deque()
        self.counters: Counter[str] = Counter()

    def issued(self) -> list[str]:
        """List the tokens that are remembered, good and ended."""
        return list(self._table)

    # -- judging -----------------------------------------------------------------------------------------

    def judge(self, value: str | None, app_id: str) -> tuple[Issued | None, str]:
        """Return (token, "") for a good token, else (None, cause): missing, expired, revoked, malformed, …"""
        if not value:
            return None, "missing"
        issued = self._table.get(value)
        if issued is None:
            return None, self._cause_of_unknown(value)
        if issued.app_id != app_id:
            return None, "other_app"
        if issued.ended:
            return None, "expired" if issued.ended == "expired" else "revoked"
        if issued.expires_at <= self._context.clock():
            return None, "expired"
        if self._context.settings.reject_all:
            return None, "reject_all"
        return issued, ""

    def _cause_of_unknown(self, value: str) -> str:
        try:
            claims = jwt.decode(
                value, self._key, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}
            )
        except jwt.InvalidSignatureError:
            return "signature"
        except jwt.PyJWTError:
            return "malformed"
        return "expired" if claims.get("exp", 0) <= self._context.clock() else "revoked"

    # -- making ------------------------------------------------------------------------------------------

    def create(self, app_id: str) -> tuple[Issued, bool]:
        """Answer POST /session: (token, is new). Raises TooManySessionsError."""
        settings, now = self._context.settings, self._context.clock()
        if settings.session_rate_limit:
            while self._session_calls and self._session_calls[0] <= now - 60:
                self._session_calls.popleft()
            if len(self._session_calls) >= settings.session_rate_limit:
                raise TooManySessionsError(max(1, int(self._session_calls[0] + 60 - now)))
            self._session_calls.append(now)
        last = self._last.get(app_id)
        if last is not None and (
            settings.session_answer == "last"
            or (settings.session_answer == "existing" and not last.ended and last.expires_at > now)
        ):
            self.counters["sessions_returned"] += 1
            return last, False
        self._make_room(app_id, now)
        issued = self._issue(app_id, str(uuid.uuid4()), None)
        self.counters["sessions_created"] += 1
        if settings.stillborn_tokens:
            issued.ended = "revoked"
        return issued, True

    def _make_room(self, app_id: str, now: float) -> None:
        limit = self._context.settings.session_limit
        if not limit:
            return
        live = [sid for sid, tokens in self._by_session.items() if self._is_live(tokens, app_id, now)]
        if len(live) < limit:
            return
        if self._context.settings.session_limit_action == "refuse":
            raise TooManySessionsError(1)
        for sid in live[: len(live) - limit + 1]:
            self._end(self._by_session[sid], "revoked")

    @staticmethod
    def _is_live(tokens: list[Issued], app_id: str, now: float) -> bool:
        return any(t.app_id == app_id and not t.ended and t.expires_at > now for t in tokens)

    def _issue(self, app_id: str, session_id: str, email: str | None, customer_id: int | None = None) -> Issued:
        settings, now = self._context.settings, self._context.clock()
        expires_at = now + settings.token_ttl
        claims: dict[str, Any] = {"iat": int(now), "sid": session_id, "jti": secrets.token_hex(12)}
        if settings.expiry_claim != "none":
            # JWTs count whole seconds; the table keeps the exact end, so lives under a second work too.
            claims["exp"] = int(expires_at) if settings.expiry_claim == "real" else int(now) - 60
        if email is not None:
            claims |= {"customerId": customer_id, "email": email}
        issued = Issued(self._sign(claims), app_id, session_id, now, expires_at, email)
        self._table[issued.value] = issued
        self._by_session.setdefault(session_id, []).append(issued)
        self._last[app_id] = issued
        self.counters["tokens_issued"] += 1
        while len(self._table) > TABLE_SIZE:
            _, oldest = self._table.popitem(last=False)
            siblings = self._by_session.get(oldest.session_id, [])
            if oldest in siblings:
                siblings.remove(oldest)
            if not siblings:
                self._by_session.pop(oldest.session_id, None)
        return issued

    def _sign(self, claims: dict[str, Any]) -> str:
        forced = self._forced.popleft() if self._forced else {}
        if "value" in forced:
            return str(forced["value"])
        value = jwt.encode(claims, self._key, algorithm="HS256")
        missing = int(forced.get("length", 0)) - len(value)
        if missing > 0:
            # Base64 makes four characters of three bytes; the rest of the padding claim is its name and quotes.
            value = jwt.encode(claims | {"pad": "x" * (missing * 3 // 4)}, self._key, algorithm="HS256")
        return value

    def force_next(self, what: dict[str, Any], times: int) -> None:
        """Give the next `times` tokens this `value`, or at least (about) this `length` in characters."""
        self._forced.extend([what] * times)

    # -- login -------------------------------------------------------------------------------------------

    def login(self, old: Issued, email: str, customer_id: int | None, *, password_ok: bool) -> Issued:
        """Return a token with the identity of `email`, in the session of `old`. Raises LoginRefusedError."""
        settings, now = self._context.settings, self._context.clock()
        key = email.casefold()
        if key in self._locked_until:
            if now < self._locked_until[key]:
                self.counters["logins_locked"] += 1
                raise LoginRefusedError(locked=True)
            del self._locked_until[key]
        if not password_ok:
            self._failures[key] += 1
            self.counters["logins_failed"] += 1
            if settings.lockout_after and self._failures[key] >= settings.lockout_after:
                self._locked_until[key] = now + settings.lockout_seconds
                self._failures[key] = 0
            if len(self._failures) > TABLE_SIZE:
                self._failures.clear()
            raise LoginRefusedError(locked=False)
        self._failures.pop(key, None)
        if settings.one_login_per_account:
            same = [t for t in self._table.values() if t.email is not None and t.email.casefold() == key]
            self._end([t for t in same if t is not old], "revoked")
        if settings.old_after_login == "revoked":
            self._end([old], "superseded")
        self.counters["logins"] += 1
        return self._issue(old.app_id, old.session_id, email, customer_id)

    # -- refresh -----------------------------------------------------------------------------------------

    def refresh(self, old: Issued, method: str, status: int, customer_id: int | None) -> Issued | None:
        """Return the token to put on an answer to a request that carried `old`, or None (open questions 1 and 2)."""
        settings, now = self._context.settings, self._context.clock()
        if old.ended in ("revoked", "expired") or old.expires_at - now > settings.refresh_window:
            return None
        good = 200 <= status < 300
        if settings.refresh_on == "none" or (settings.refresh_on != "all" and not good):
            return None
        if settings.refresh_on == "get_2xx" and method != "GET":
            return None
        if old.successor is not None and settings.parallel_refresh == "once":
            return None
        if old.successor is not None and settings.parallel_refresh == "same":
            return None if old.successor.ended else old.successor
        email = old.email if settings.refresh_keeps_login else None
        if settings.old_after_refresh == "revoked":
            self._end([old], "superseded")
        elif settings.old_after_refresh == "latest_only":
            self._end(self._by_session.get(old.session_id, []), "superseded")
        old.successor = self._issue(old.app_id, old.session_id, email, customer_id)
        self.counters["refreshes"] += 1
        return old.successor

    # -- ending ------------------------------------------------------------------------------------------

    @staticmethod
    def _end(tokens: list[Issued], why: str) -> int:
        live = [token for token in tokens if not token.ended]
        for token in live:
            token.ended = why
        return len(live)

    def revoke_all(self) -> int:
        """End every token now; return how many were still good."""
        count = self._end(list(self._table.values()), "revoked")
        self._context.emit("tokens_revoked", count=count)
        return count

    def expire_all(self) -> int:
        """Let every token's life be over now; return how many were still good."""
        count = self._end(list(self._table.values()), "expired")
        self._context.emit("tokens_expired", count=count)
        return count

    def remaining(self, issued: Issued) -> int:
        """Whole seconds left as CardCash tells them; at least 1, also for lives under a second."""
        return max(1, int(issued.expires_at - self._context.clock()))

    def live(self) -> int:
        """Count the tokens that are good now."""
        now = self._context.clock()
        return sum(1 for token in self._table.values() if not token.ended and token.expires_at > now)
