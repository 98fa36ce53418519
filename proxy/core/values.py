"""How people write durations, sizes, hosts and addresses, wherever they write them; what they got wrong is a sentence.

Every parser takes a text (or what a file or JSON made of it) and returns the value or raises `Bad`. It does not know what
it serves nor where the text came from, and never repeats a text that may hold a credential. Imports little: `health` and
`wait` read an address with it before anything else is loaded.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

#: Above this a duration is a slip of the pen (milliseconds taken for seconds), and timers start to overflow.
LONGEST: Final = 366 * 86400.0
LARGEST: Final = 1 << 40

#: [0-9], for \d is also a digit of any other script; and no underscores, which Python's int() and float() pass over.
_NUMBER: Final = re.compile(r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?) *(?P<unit>[A-Za-z]*)")
_SECONDS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}

_PEM: Final = "-----BEGIN"
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: A name of systemd.socket(5), FileDescriptorName=: visible ASCII without a colon, which stands between two of them.
_SOCKET_NAME: Final = re.compile(r"[!-9;-~]{1,255}")
#: sun_path holds 108 bytes, one of them the NUL (unix(7)).
_LONGEST_SOCKET_PATH: Final = 107


class Bad(ValueError):
    """What is wrong with a value: one or more (place inside it, sentence), such as ("[2]", "…")."""

    def __init__(self, *problems: str | tuple[str, str]) -> None:
        self.problems = [("", p) if isinstance(p, str) else p for p in problems]
        super().__init__("; ".join(f"{place}: {text}" if place else text for place, text in self.problems))


def shown(text: str) -> str:
    """Repeat a value in a message: short, escaped, and not at all if it may hold a password (`user:pw@host`), or a key."""
    if "@" in text or _PEM in text:
        return "this value"
    return json.dumps(text if len(text) <= 60 else text[:57] + "...")


def shown_file(text: str) -> str:
    """Repeat the name of a file in a message, likewise; but an @ alone is no password's: systemd's instances have it."""
    # What was a URL has lost one of its slashes, as a path.
    if re.search(r":/.*@", text, re.DOTALL) or _PEM in text:
        return "…"
    return repr(text if len(text) <= 200 else text[:199] + "…")[1:-1]


def as_text(value: object) -> str:
    """Return a scalar as text without blanks around it; numbers count as text (`app_id: 12345`), booleans do not."""
    if isinstance(value, bool):
        raise Bad("YAML takes this word for true or false; put it in quotes")
    if value is None:
        raise Bad("has no value")
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise Bad("must be one text, not a list or a group of settings")


def _number(text: str, units: Mapping[str, float], kind: str, examples: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    unit = match["unit"] if match else ""
    # Units of time are lower-case (5M is no five minutes); those of size are known in any case.
    unit = unit.lower() if kind == "size" else unit
    if match is None or unit not in units:
        raise Bad(f"{shown(text)} is not a {kind}; write {examples}")
    number = float(match["number"])
    if not math.isfinite(number):
        raise Bad(f"{shown(text)} is too large")
    if number < 0:
        raise Bad(f"{shown(text)} is negative")
    return number, unit


def duration(value: object) -> float:
    """Parse seconds, or a number with ms, s, m, h or d, into float seconds (0 or more)."""
    text = as_text(value)
    number, unit = _number(text, _SECONDS, "duration", "seconds or 500ms, 30s, 5m, 1h")
    # A division is exact where a multiplication by 0.001 is not: 300ms is 0.3.
    seconds = number / 1000 if unit == "ms" else number * _SECONDS[unit]
    if seconds > LONGEST:
        raise Bad(f"{shown(text)} is longer than 366d")
    return seconds


def size(value: object) -> int:
    """Parse bytes, or a number with kB, MB, GB, KiB, MiB or GiB, into int bytes."""
    text, examples = as_text(value), "bytes or 512KiB, 10MiB, 1GiB"
    number, unit = _number(text, _BYTES, "size", examples)
    total = number * _BYTES[unit]
    if total > LARGEST:
        raise Bad(f"{shown(text)} is larger than 1024GiB")
    if total != int(total):
        raise Bad(f"{shown(text)} is not a whole number of bytes; write {examples}")
    return int(total)


# Places on a network


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a canonical host is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a canonical host is this machine by definition: localhost, 127/8, ::1."""
    address = ip_address(host)
    return host == "localhost" if address is None else address.is_loopback


def host_name(text: str) -> str | None:
    """Return a host in canonical form (lower-case name, compressed address without brackets), None if it is none."""
    # The Kelvin sign becomes a k in lower case; a scope (fe80::1%eth0) means something on this machine only.
    if not text.isascii() or "%" in text:
        return None
    text = text.lower()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = ip_address(bare)
    if address is not None:
        return address.compressed if bare is text or address.version == 6 else None
    bare = text.removesuffix(".")
    # 127.1 and 1.2.3.256 look like addresses and are taken for some by old resolvers: refused.
    if len(bare) > 253 or not _HOST_NAME.fullmatch(bare) or re.fullmatch(r"[\d.]+", bare):
        return None
    return bare


def port_number(text: str) -> int | None:
    """Return a port from 0 to 65535, None if it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535 else None


def host_and_port(text: str, default_port: int | None = None) -> tuple[str | None, int | None]:
    """Read `host[:port]`, with an IPv6 address in brackets, into a canonical host and a port; None for each that is none."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", text)
    if match is None:
        return None, None
    return host_name(match[1]), default_port if match[2] is None else port_number(match[2])


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = "write scheme://host[:port], such as https://sandbox-api.cardcash.com"


class Origin(NamedTuple):
    """Where a server is (RFC 6454, section 4: a path is no part of it); `host` is canonical and carries no brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read `scheme://host[:port]`; a lone trailing slash is tolerated. Raises `Bad`, which repeats no password."""
        if "@" in text:
            raise Bad(f"must not hold a user name or password; {_ORIGIN}")
        if not re.fullmatch(r"[!-~]+", text):
            raise Bad(f"{shown(text)} is not an origin (names beyond ASCII: in their xn-- form); {_ORIGIN}")
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _DEFAULT_PORTS:
            raise Bad(f"{shown(text)} is not an http or https origin; {_ORIGIN}")
        rest = rest.removesuffix("/")
        if re.search(r"[/?#\\]", rest):
            raise Bad(f"{shown(text)} has more than an origin; {_ORIGIN} (a path belongs in upstream.base_path)")
        host, port = host_and_port(rest, _DEFAULT_PORTS[scheme])
        if host is None or not port:
            raise Bad(f"{shown(text)} has no valid host and port; {_ORIGIN}")
        return cls(scheme, host, port)

    @property
    def authority(self) -> str:
        """`host:port`, the port always given (the target of CONNECT)."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> bytes:
        """The value of `Host`: the default port is left out (RFC 9110, section 7.2)."""
        text = bracketed(self.host) if self.port == _DEFAULT_PORTS[self.scheme] else self.authority
        return text.encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header.decode()}"


class ListenAddress(NamedTuple):
    """One place to listen at: a TCP host and port (0: any free one), the path of a unix socket, or the name of one or more
    sockets that are handed over at the start: where those listen is seen there."""

    kind: Literal["tcp", "unix", "fd"]
    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect, as far as the address itself says."""
        return self.kind != "tcp" or is_loopback(self.host)

    @property
    def free(self) -> bool:
        """Whether it stands for any free port, so that it is never the same as another."""
        return self.kind == "tcp" and self.port == 0

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"{bracketed(self.host)}:{self.port}"
        return f"unix:{self.path}" if self.kind == "unix" else f"fd:{self.name}"


#: Where the admin port is unless it is set.
ADMIN_LISTEN: Final = ListenAddress("tcp", "127.0.0.1", 8081)


def listen_address(value: object) -> ListenAddress:
    """Parse HOST:PORT, [v6]:PORT, unix:/path or fd:NAME."""
    text = as_text(value)
    if text.startswith("fd:"):
        name = text.removeprefix("fd:")
        if not _SOCKET_NAME.fullmatch(name):
            raise Bad(f"{shown(text)} names no socket; write fd: and its FileDescriptorName, such as fd:http")
        return ListenAddress("fd", name=name)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("/") else path  # unix:///path is unix:/path
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise Bad(f"{shown(text)} is not a socket; write unix: and an absolute path, such as unix:/run/proxy.sock")
        if len(path.encode(errors="replace")) > _LONGEST_SOCKET_PATH:
            raise Bad(f"{shown(text)} is too long for a socket's path (at most {_LONGEST_SOCKET_PATH} bytes)")
        return ListenAddress("unix", path=path)
    example = "write HOST:PORT, [v6]:PORT, unix:/path or fd:NAME, such as 127.0.0.1:8080"
    host, port = host_and_port(text)
    if host is None and port is None:
        raise Bad(f"{shown(text)} is not an address to listen at; {example}")
    if port is None:
        raise Bad(f"{shown(text)} has no port from 0 to 65535; {example}")
    if host is None:
        hint = " (all interfaces: 0.0.0.0 or [::])" if text.startswith((":", "*:")) else ""
        raise Bad(f"{shown(text)} has no valid host{hint}; {example}")
    return ListenAddress("tcp", host, port)


def each_part(value: object) -> list[object]:
    """Return a list's elements: a list, JSON that holds a list, or texts with commas between them."""
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str):
        return [value]
    # "[::1]:8080" begins like JSON too: only a quote, a bracket or a brace inside makes it JSON.
    if re.match(r"\[\s*[\"\[\]{]", value.strip()):
        return list(json_value(value))
    return [part.strip() for part in value.split(",") if part.strip()]


def json_value(text: str) -> Any:
    """Parse JSON with numbers kept as text, as all values of settings are; no key may stand twice in an object."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_each_key_once)
    except Bad:
        raise
    except (ValueError, RecursionError) as error:
        place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Bad(f"is not valid JSON{place}") from None


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of its members. JSON lets the last of two with one name win: a guard would be gone without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Bad("has a key twice in one {…}, of which one would be lost; write it once")
    return found
