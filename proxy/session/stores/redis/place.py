"""Where a Redis is, and who we are there, at one moment. Imports nothing that is large, so that settings can make one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One moment's answer; another object takes its place when a file behind it has changed."""

    url: StoreUrl
    #: Whom we believe to be a `rediss`, and what it is shown; None: the system's authorities, and nothing.
    tls: ssl.SSLContext | None = None
    sentinel_password: Secret | None = None
    #: What entries are encrypted with: the first encrypts, all decrypt; none: the application id.
    secrets: tuple[Secret, ...] = field(default=())
