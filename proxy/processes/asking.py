"""How the supervisor asks its workers: HTTP to their own admin ports, on unix sockets in the private folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from proxy.processes.child import Child

#: Seconds. A worker that takes longer is stuck, and `health` itself waits no longer than 3.
PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a worker."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the JSON object it holds; {} when it holds none."""
        try:
            content = json.loads(self.body)
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}


async def ask(
    child: Child, method: str, path: str, *, seconds: float = PATIENCE, headers: Mapping[str, str] | None = None
) -> Reply | None:
    """Ask one worker; None when it does not answer in time, or dies meanwhile."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=str(child.admin), force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as client,
            # A name that the guards of every proxy allow.
            client.request(method, f"http://localhost{path}", headers=headers) as answer,
        ):
            return Reply(answer.status, answer.headers, await answer.read())
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
