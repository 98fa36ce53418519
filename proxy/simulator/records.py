"""What tests ask afterwards: how often each call came, what was processed and how often, and the last heads.

Owns the counts and their bounds. Credentials are kept only as SHA-256 prefixes once they are shown.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from typing import Any

from aiohttp import web

MAX_IDS = 100_000
MAX_RECORDS = 2_000
MAX_HEADS = 500
ID_HEADERS = ("X-Test-Id", "X-Request-ID")
_SECRET = (b"authorization", b"x-cc-app", b"cookie", b"proxy-authorization")


def digest(value: bytes | str) -> str:
    """Show a secret as "sha256:" and 16 hex digits: good to compare, useless to replay."""
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else value
    return "sha256:" + hashlib.sha256(raw).hexdigest()[:16]


def shown_headers(raw: tuple[tuple[bytes, bytes], ...]) -> list[list[str]]:
    """List name and value as they came, in order; of a Bearer value the scheme is kept and the token hashed."""
    shown = []
    for name, value in raw:
        text = value.decode("latin-1")
        if name.lower() in _SECRET:
            bearer = text[:7].lower() == "bearer "
            text = f"{text[:7]}{digest(value[7:])}" if bearer else digest(value)
        shown.append([name.decode("latin-1"), text])
    return shown


class Records:
    """Counters and bounded logs of one simulator."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.processed: dict[str, int] = {}
        self.log: deque[dict[str, Any]] = deque(maxlen=MAX_RECORDS)
        self.connections = 0
        self._heads: deque[tuple[str, str, tuple[tuple[bytes, bytes], ...]]] = deque(maxlen=MAX_HEADS)

    def arrived(self, request: web.Request, template: str) -> None:
        """Count a call and keep its head."""
        self.calls[f"{request.method} {template}"] += 1
        # raw_path: the target byte for byte; every other view of it is re-encoded.
        self._heads.append((request.method, request.raw_path, request.raw_headers))

    def was_processed(self, request: web.Request, template: str, status: int) -> None:
        """Count a request other than GET that got past the token and reached its handler."""
        ids = dict.fromkeys(request.headers[name] for name in ID_HEADERS if name in request.headers)
        for one in ids:
            self.processed[one] = self.processed.get(one, 0) + 1
        while len(self.processed) > MAX_IDS:
            self.processed.pop(next(iter(self.processed)))
        entry = {"method": request.method, "template": template, "target": request.raw_path, "status": status}
        self.log.append({**entry, "ids": list(ids)})

    def heads(self, last: int) -> list[dict[str, Any]]:
        """Show the last request heads, oldest first."""
        chosen = list(self._heads)[-last:] if last > 0 else []
        return [{"method": m, "target": t, "headers": shown_headers(h)} for m, t, h in chosen]

    def clear(self) -> None:
        """Start counting anew; in place, since tests hold on to `calls`."""
        for counter in (self.calls, self.statuses, self.rejected):
            counter.clear()
        self.processed.clear()
        self.log.clear()
        self._heads.clear()
        self.connections = 0
