"""Owns the settings that name places on a network: origins, hosts, networks, listen addresses."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from proxy.core.values import (
    Bad,
    ListenAddress,
    as_text,
    bracketed,
    each_part,
    host_name,
    ip_address,
    is_loopback,
    listen_address,
    port_number,
    shown,
)
from proxy.settings.parsing import each

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    port = port_number(match[2]) if match and match[2] else None
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
    if separator and port_number(port) is not None and (":" not in name or name.endswith("]")):
        rest = name
    host = host_name(rest)
    if host is None or (wildcard and ip_address(host)):
        raise Bad(f"{shown(text)} is not a host; write a host name, an IP address or *.suffix")
    return wildcard + host


def network(value: object) -> Network:
    """Parse an IP network; a bare address is a network of one, host bits are dropped."""
    text = as_text(value)
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Bad(f"{shown(text)} is not a network; write it like 10.0.0.0/8, 192.0.2.7 or fd00::/8") from None


def listen_addresses(value: object) -> tuple[ListenAddress, ...]:
    """Parse one or more addresses to listen at; the same one twice is refused (but port 0 is never the same)."""
    addresses = each(listen_address, each_part(value))
    if not addresses:
        raise Bad("must name at least one address, such as 127.0.0.1:8080")
    for index, address in enumerate(addresses):
        if address in addresses[:index] and not address.free:
            raise Bad((f"[{index}]", f"{shown(str(address))} is listed twice; remove one"))
    return addresses


def allowed_hosts(value: object) -> tuple[str, ...]:
    """Parse the hosts that are served."""
    return tuple(dict.fromkeys(each(allowed_host, each_part(value))))


def allowed_origins(value: object) -> tuple[str, ...]:
    """Parse the browser origins that are served."""
    return tuple(dict.fromkeys(each(browser_origin, each_part(value))))


def allowed_networks(value: object) -> tuple[Network, ...]:
    """Parse the networks whose clients are served."""
    return each(network, each_part(value))
