"""Owns the settings that name places on a network: origins, hosts, networks, listen addresses."""

from __future__ import annotations

import ipaddress
import re

from proxy.core.values import (
    Bad,
    ListenAddress,
    Origin,
    as_text,
    each_part,
    host_name,
    ip_address,
    is_loopback,
    listen_address,
    port_number,
    shown,
)
from proxy.settings.parsing import each

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def origin(value: object) -> str:
    """Parse scheme://host[:port] into canonical text: lower-case, default port dropped, no slash at the end."""
    return str(Origin.parse(as_text(value)))


def is_plain_to_elsewhere(canonical: str) -> bool:
    """Tell whether an origin is plain http to another machine."""
    found = Origin.parse(canonical)
    return found.scheme == "http" and not is_loopback(found.host)


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
