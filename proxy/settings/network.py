"""Owns the settings that name places on a network: origins, hosts, networks, listen addresses."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from proxy.settings.parsing import Bad, as_text, each, items, shown

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: sun_path holds 108 bytes, one of them the NUL (unix(7)).
_LONGEST_SOCKET_PATH: Final = 107

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One place to listen at: a TCP host and port (0: any free one), or the path of a unix socket."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.kind == "unix" or is_loopback(self.host)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """Return a host as it stands in a URL: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tell whether a canonical host is this machine by definition: localhost, 127/8, ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(text: str) -> str | None:
    """Return a host in canonical form (lower-case name, compressed address without brackets), None if it is none."""
    if not text.isascii():  # the Kelvin sign becomes a k in lower case
        return None
    text = text.lower()
    if "%" in text:  # a scope (fe80::1%eth0) means something on this machine only
        return None
    if text.startswith("[") and text.endswith("]"):
        try:
            return ipaddress.IPv6Address(text[1:-1]).compressed
        except ValueError:
            return None
    try:
        return ipaddress.ip_address(text).compressed
    except ValueError:
        pass
    text = text.removesuffix(".")
    # 127.1 and 1.2.3.256 look like addresses and are taken for some by old resolvers: refused.
    if len(text) > 253 or not _HOST_NAME.fullmatch(text) or re.fullmatch(r"[\d.]+", text):
        return None
    return text


def _port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535 else None


def origin(value: object) -> str:
    """Parse scheme://host[:port] into canonical text: lower-case, default port dropped, no slash at the end."""
    text = as_text(value)
    example = "write scheme://host[:port], such as https://sandbox-api.cardcash.com"
    if "@" in text:
        raise Bad(f"must not hold a user name or password; {example}")
    if not re.fullmatch(r"[!-~]+", text):
        raise Bad(f"{shown(text)} is not an origin (names beyond ASCII: in their xn-- form); {example}")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise Bad(f"{shown(text)} is not an http or https origin; {example}")
    rest = rest.removesuffix("/")
    if re.search(r"[/?#\\]", rest):
        raise Bad(f"{shown(text)} has more than an origin; {example} (a path belongs in upstream.base_path)")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]+)(?::([0-9]+))?", rest)
    host = host_name(match[1]) if match else None
    port = _port(match[2]) if match and match[2] else None
    if match is None or host is None or (match[2] and not port):
        raise Bad(f"{shown(text)} has no valid host and port; {example}")
    shown_port = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{bracketed(host)}{shown_port}"


def is_plain_to_elsewhere(canonical_origin: str) -> bool:
    """Tell whether an origin is plain http to another machine."""
    parts = urlsplit(canonical_origin)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def browser_origin(value: object) -> str:
    """Parse an Origin header's value: scheme://host[:port] of any scheme, or null."""
    given = as_text(value)
    text = given.lower() if given.isascii() else ""
    if text == "null":
        return text
    if text.startswith(("http://", "https://")):
        try:
            return origin(text)
        except Bad:
            pass
    elif re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9_.-]+(?::[0-9]{1,5})?", text):  # chrome-extension://…
        return text
    raise Bad(f"{shown(given)} is not a browser origin; write scheme://host[:port] or null, and name each one")


def allowed_host(value: object) -> str:
    """Parse a Host that is served: a name, an address, or *.suffix; a port is dropped."""
    text = as_text(value)
    wildcard = "*." if text.startswith("*.") else ""
    rest = text.removeprefix(wildcard)
    name, separator, port = rest.rpartition(":")
    if separator and _port(port) is not None and (":" not in name or name.endswith("]")):
        rest = name
    host = host_name(rest)
    if host is None or (wildcard and (":" in host or is_address(host))):
        raise Bad(f"{shown(text)} is not a host; write a host name, an IP address or *.suffix")
    return wildcard + host


def is_address(host: str) -> bool:
    """Tell whether a canonical host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def network(value: object) -> Network:
    """Parse an IP network; a bare address is a network of one, host bits are dropped."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    text = as_text(value)
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Bad(f"{shown(text)} is not a network; write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8") from None


def listen_address(value: object) -> ListenAddress:
    """Parse HOST:PORT, [v6]:PORT or unix:/path."""
    if isinstance(value, ListenAddress):
        return value
    text = as_text(value)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("/") else path  # unix:///path is unix:/path
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise Bad(f"{shown(text)} is not a socket; write unix: and an absolute path, such as unix:/run/proxy.sock")
        if len(path.encode(errors="replace")) > _LONGEST_SOCKET_PATH:
            raise Bad(f"{shown(text)} is too long for a socket's path (at most {_LONGEST_SOCKET_PATH} bytes)")
        return ListenAddress(kind="unix", path=path)
    example = "write HOST:PORT, [v6]:PORT or unix:/path, such as 127.0.0.1:8080"
    name, separator, port_text = text.rpartition(":")
    port = _port(port_text)
    if not separator or (":" in name and not name.startswith("[")):
        raise Bad(f"{shown(text)} is not an address to listen at; {example}")
    if port is None:
        raise Bad(f"{shown(text)} has no port from 0 to 65535; {example}")
    host = host_name(name)
    if host is None:
        hint = " (all interfaces: 0.0.0.0 or [::])" if name in {"", "*"} else ""
        raise Bad(f"{shown(text)} has no valid host{hint}; {example}")
    return ListenAddress(kind="tcp", host=host, port=port)


def listen_addresses(value: object) -> tuple[ListenAddress, ...]:
    """Parse one or more addresses to listen at; the same one twice is refused (but port 0 is never the same)."""
    addresses = each(listen_address, items(value))
    if not addresses:
        raise Bad("must name at least one address, such as 127.0.0.1:8080")
    seen: set[ListenAddress] = set()
    for index, address in enumerate(addresses):
        if address in seen and not (address.kind == "tcp" and address.port == 0):
            raise Bad((f"[{index}]", f"{shown(str(address))} is listed twice; remove one"))
        seen.add(address)
    return addresses


def allowed_hosts(value: object) -> tuple[str, ...]:
    """Parse the hosts that are served."""
    return _unique(each(allowed_host, items(value)))


def allowed_origins(value: object) -> tuple[str, ...]:
    """Parse the browser origins that are served."""
    return _unique(each(browser_origin, items(value)))


def allowed_networks(value: object) -> tuple[Network, ...]:
    """Parse the networks whose clients are served."""
    return each(network, items(value))


def _unique(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
