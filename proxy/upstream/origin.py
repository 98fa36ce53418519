"""Where the upstream is: scheme, host and port, and the TLS context used to reach it.

Owns the syntax of an origin (RFC 6454, section 4: a path is no part of it) and what we demand of a certificate.
Must not know connections, settings or HTTP.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What a resolver can be asked for. Underscores are no host name by RFC 1123 but are met in container networks.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?\Z"
)
_SHAPE = "an origin looks like https://host or http://host:port"


@dataclass(frozen=True, slots=True)
class Origin:
    """One origin; `host` is lower case and carries no brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read `scheme://host[:port]`; a lone trailing slash is tolerated.

        Raises:
            ValueError: with one sentence that never repeats a user name or password.
        """
        if not text.isascii() or any(char <= " " or char == "\x7f" for char in text):
            raise ValueError(f"The origin holds white space or characters outside ASCII; {_SHAPE}.")
        try:
            parts = urlsplit(text)
            host = parts.hostname
        except ValueError:
            raise ValueError(f"The origin's host is not valid; {_SHAPE}.") from None
        if "@" in text:
            raise ValueError(f"The origin must not hold a user name or password; {_SHAPE}.")
        if parts.scheme not in _DEFAULT_PORTS or not text[len(parts.scheme) :].startswith("://"):
            raise ValueError(f"The origin must start with http:// or https://; {_SHAPE}.")
        if "?" in text or "#" in text:
            raise ValueError(f"The origin must not hold a query or fragment; {_SHAPE}.")
        if parts.path not in {"", "/"}:
            raise ValueError(f"The origin must not hold a path; {_SHAPE}.")
        if not host:
            raise ValueError(f"The origin has no host; {_SHAPE}.")
        cls._check_host(host, bracketed=parts.netloc.startswith("["))
        return cls(parts.scheme, host, cls._port(parts.netloc, parts.scheme))

    @staticmethod
    def _check_host(host: str, *, bracketed: bool) -> None:
        if bracketed:
            try:
                scoped = ipaddress.IPv6Address(host).scope_id is not None
            except ValueError:
                raise ValueError(f"The origin's host is not an IPv6 address; {_SHAPE}.") from None
            if scoped:
                raise ValueError(f"The origin's address must not hold a zone; {_SHAPE}.")
        elif not _HOST_NAME.match(host):
            raise ValueError(f"The origin's host is not valid; {_SHAPE}.")

    @staticmethod
    def _port(netloc: str, scheme: str) -> int:
        after = netloc.rpartition("]")[2] if netloc.startswith("[") else netloc
        before, colon, digits = after.rpartition(":")
        if not after or (not colon and after is netloc):
            return _DEFAULT_PORTS[scheme]
        if (
            (before and after is not netloc)
            or not colon
            or not (digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 65535)
        ):
            raise ValueError(f"The origin's port is not a number from 1 to 65535; {_SHAPE}.")
        return int(digits)

    @property
    def authority(self) -> str:
        """`host:port`, the port always given, an IPv6 address in brackets (the target of CONNECT)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> bytes:
        """The value of `Host`: the default port is left out (RFC 9110, section 7.2)."""
        text = self.authority
        if self.port == _DEFAULT_PORTS[self.scheme]:
            text = text.rpartition(":")[0]
        return text.encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header.decode('ascii')}"


def tls_context(authorities: str | None) -> ssl.SSLContext:
    """Build the context for the upstream: TLS 1.2 or newer, verified, names by subjectAltName only.

    `authorities`: PEM certificates that are trusted instead of the system's. Loading them takes milliseconds, so a context
    is for many connections.
    """
    context = ssl.create_default_context(cadata=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # RFC 9110, section 4.3.4, and RFC 6125: the common name is no longer a name.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    return context
