"""The URL of a Redis that keeps the session: its grammar, and what is said of one that does not fit it. Pure.

    redis[s]://[user[:password]@]host[:port][,host[:port]…][/db][?prefix=…]
    redis[s]+sentinel://[user[:password]@]host[:port][,host[:port]…]/master[/db][?prefix=…]

`rediss` is TLS, of the Sentinels too. User and password are those of Redis, percent-encoded (RFC 3986, section 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.core.secret import Secret
from proxy.core.values import Bad, bracketed, host_and_port, is_loopback

#: The schemes, with what they say: TLS, Sentinel.
SCHEMES: Final = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis+sentinel": (False, True),
    "rediss+sentinel": (True, True),
}
DEFAULT_PREFIX: Final = "cardcash:"
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
#: Servers in one URL; more is a slip of the pen.
_MOST_HOSTS: Final = 32
_LARGEST_DB: Final = 1_000_000

# Braces would make another hash tag, blanks and globs another meaning in rules of access.
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
# What Sentinel takes for a master's name.
_MASTER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a Redis is, and as whom it is used. Never shows user or password."""

    #: Seeds of one Redis or cluster; with `master` they are Sentinels.
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    #: The name by which Sentinels know the master; None: `hosts` are Redis itself.
    master: str | None = None
    user: Secret | None = None
    password: Secret | None = None
    db: int = 0
    prefix: str = field(default=DEFAULT_PREFIX)

    @property
    def kind(self) -> str:
        """The scheme."""
        return next(scheme for scheme, says in SCHEMES.items() if says == (self.tls, self.master is not None))

    @property
    def is_local(self) -> bool:
        """Say whether nothing of it leaves this machine, as far as the names tell."""
        return all(is_loopback(host) for host, _ in self.hosts)

    @property
    def shows_password(self) -> bool:
        """Say whether its password travels over a network in the open."""
        return self.password is not None and not self.tls and not self.is_local

    def __str__(self) -> str:
        path = f"/{self.master}" if self.master is not None else ""
        path += f"/{self.db}" if self.db else ""
        query = f"?prefix={self.prefix}" if self.prefix != DEFAULT_PREFIX else ""
        return f"{self.kind}://{spelled(self.hosts)}{path}{query}"


def spelled(hosts: Iterable[tuple[str, int]]) -> str:
    """Write servers as the URL has them."""
    return ",".join(f"{bracketed(host)}:{port}" for host, port in hosts)


def is_redis(text: str) -> bool:
    """Say whether a text of `session.store` means a Redis, well-formed or not."""
    return text.partition("://")[0].strip().lower() in SCHEMES


def parse_store_url(text: str) -> StoreUrl:
    """Parse the URL. Raises `Bad`, which names the part and repeats nothing of it: any part may be a secret astray."""
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise Bad(f"has no known scheme; use {', '.join(f'{name}://' for name in SCHEMES)}")
    if not re.fullmatch(r"[!-~]*", rest):
        raise Bad("has blanks or characters beyond ASCII; percent-encode those of user and password")
    if "#" in rest:
        raise Bad("has a #; in a user or password write it as %23")
    tls, by_sentinel = SCHEMES[scheme.lower()]
    rest, has_query, query = rest.partition("?")
    if "@" in query:
        raise Bad("has a ? in front of the @; in a user or password write it as %3F")
    # The last @, so that one that was left as it is in a password is part of it.
    userinfo, has_user, places = rest.rpartition("@")
    if "/" in userinfo:
        raise Bad("has a / in front of the @; in a user or password write it as %2F")
    authority, _, path = places.partition("/")
    user, password = _credentials(userinfo) if has_user else (None, None)
    master, db = _path(path, by_sentinel=by_sentinel)
    return StoreUrl(
        hosts=_hosts(authority, _SENTINEL_PORT if by_sentinel else _REDIS_PORT),
        tls=tls,
        master=master,
        user=user,
        password=password,
        db=db,
        prefix=_prefix(query) if has_query else DEFAULT_PREFIX,
    )


def _credentials(userinfo: str) -> tuple[Secret | None, Secret | None]:
    user, has_password, password = userinfo.partition(":")
    if not user and not password:
        raise Bad("has an @ but neither user nor password in front of it")
    if has_password and not password:
        raise Bad("has an empty password; leave the : out for a user without one")
    return _decoded(user, "user"), _decoded(password, "password")


def _decoded(text: str, part: str) -> Secret | None:
    if not text:
        return None
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise Bad(f"has a % in its {part} that begins no percent-encoding; write it as %25")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        decoded = ""
    if not decoded:
        # Raised here: the decoder's exception carries the bytes.
        raise Bad(f"has a percent-encoding in its {part} that is not UTF-8")
    return Secret(decoded)


def _hosts(authority: str, default_port: int) -> tuple[tuple[str, int], ...]:
    if not authority:
        raise Bad("has no host")
    parts = authority.split(",")
    if len(parts) > _MOST_HOSTS:
        raise Bad(f"has more than {_MOST_HOSTS} hosts")
    return tuple(
        _host(part, default_port, "its host" if len(parts) == 1 else f"host {number}")
        for number, part in enumerate(parts, 1)
    )


def _host(text: str, default_port: int, which: str) -> tuple[str, int]:
    host, port = host_and_port(text, default_port)
    if host is None:
        raise Bad(f"has no valid name or address in {which}; write host:port, and IPv6 addresses in brackets")
    if not port:
        raise Bad(f"has a port in {which} that is not from 1 to 65535")
    return host, port


def _path(path: str, *, by_sentinel: bool) -> tuple[str | None, int]:
    parts = path.split("/")
    master = None
    if by_sentinel:
        master = parts.pop(0)
        if not _MASTER.fullmatch(master):
            raise Bad("has no valid name of the master after the Sentinels: write …/master or …/master/db")
    if len(parts) > 1:
        raise Bad("has more than a database in its path")
    if not parts or not parts[0]:
        return master, 0
    if not re.fullmatch(r"[0-9]{1,7}", parts[0]) or int(parts[0]) > _LARGEST_DB:
        raise Bad("has a database that is not a number")
    return master, int(parts[0])


def _prefix(query: str) -> str:
    name, _, value = query.partition("=")
    if name != "prefix":
        raise Bad("has a query with more than ?prefix=…; nothing else can be set there")
    if not _PREFIX.fullmatch(value):
        raise Bad("has a prefix that is not 1 to 64 of A-Z a-z 0-9 _ . : -")
    return value
