"""Owns how the text of one setting becomes its value, where `core/values.py` does not: counts, words, paths, places on a
network, secrets.

Every parser takes what a file, an environment variable or a flag gave (text, a bool, a list, a mapping) and returns the
value or raises `Bad`. A parser does not know which setting it serves nor where the text came from.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from proxy.core.request_fields import is_ours
from proxy.core.secret import Secret
from proxy.core.spelling import did_you_mean
from proxy.core.store_url import StoreUrl, is_redis, parse_store_url
from proxy.core.values import (
    Bad,
    ListenAddress,
    Origin,
    as_text,
    duration,
    each_part,
    host_and_port,
    host_name,
    ip_address,
    listen_address,
    shown,
    shown_file,
)
from proxy.settings import files
from proxy.settings.files import SecretForm, has_control_characters, read_secret_file

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: RFC 9110 5.6.2
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def boolean(value: object) -> bool:
    """Parse true/false, yes/no, on/off, 1/0."""
    text = str(value).lower() if isinstance(value, bool) else as_text(value).lower()
    if text not in _BOOLEANS:
        raise Bad(f"{shown(text)} is neither true nor false")
    return _BOOLEANS[text]


def positive_duration(value: object) -> float:
    """Parse a duration above zero."""
    seconds = duration(value)
    if seconds <= 0:
        raise Bad("must be more than 0; write seconds or 500ms, 30s, 5m, 1h")
    return seconds


def count(value: object, *, most: int = 1_000_000) -> int:
    """Parse a whole number from 1 to `most`."""
    text = as_text(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise Bad(f"{shown(text)} is not a whole number")
    if not 1 <= int(text) <= most:
        raise Bad(f"{shown(text)} is out of range; write a number from 1 to {most}")
    return int(text)


def one_of(*allowed: str) -> Callable[[object], str]:
    """Make a parser of one of a few words, in any case."""

    def parse(value: object) -> str:
        text = as_text(value).lower()
        if text in allowed:
            return text
        raise Bad(f"{shown(text)} is not known; write {' or '.join(allowed)}{did_you_mean(text, allowed)}")

    return parse


def each(parse: Callable[[object], T], values: Iterable[object]) -> tuple[T, ...]:
    """Parse all elements and raise one Bad with the problems of all of them, each with its index."""
    parsed: list[T] = []
    problems: list[tuple[str, str]] = []
    for index, value in enumerate(values):
        try:
            parsed.append(parse(value))
        except Bad as bad:
            problems += [(f"[{index}]{place}", text) for place, text in bad.problems]
    if problems:
        raise Bad(*problems)
    return tuple(parsed)


def unique(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Make a parser of lists whose elements do not depend on each other; what is named twice counts once."""
    return lambda value: tuple(dict.fromkeys(each(parse, each_part(value))))


def served(parse: Callable[[object], T], otherwise: str) -> Callable[[object], tuple[T, ...]]:
    """Make a parser of such lists of who is served, and no others; `otherwise`: who is, without the setting."""

    def parsed(value: object) -> tuple[T, ...]:
        if found := unique(parse)(value):
            return found
        raise Bad(f"is an empty list, which would serve nobody; leave it out to serve {otherwise}")

    return parsed


def file_path(value: object) -> Path:
    """Parse the name of a file; relative names start at the working directory."""
    text = as_text(value)
    if not text or "\0" in text:
        raise Bad("must be the name of a file")
    return Path(text)


def ca_file(value: object) -> Path:
    """Parse the name of a PEM bundle and make sure that it can be used."""
    path = file_path(value)
    try:
        files.bundle(files.read(path, most=files.LARGEST_BUNDLE))
    except files.Unreadable as error:
        raise Bad(f"the file {shown_file(str(path))} {error}") from None
    return path


def url_path(value: object) -> str:
    """Parse a path of the upstream: begins with "/", without query; a slash at the end is dropped, "/" is ""."""
    text = as_text(value)
    if text and not text.startswith("/"):
        raise Bad(f"{shown(text)} is not a path; begin it with /")
    if not re.fullmatch(r"[!-~]*", text) or re.search(r"[?#\\]", text) or text.startswith("//"):
        raise Bad(f"{shown(text)} is not a path; write it like /v3, percent-encoded, without a query")
    return text.rstrip("/")


def keepalive_path(value: object) -> str:
    """Parse the path of the keep-alive request, which must not be empty."""
    path = url_path(value)
    if not path:
        raise Bad("must be a path such as /v3/carts")
    return path


def origin(value: object) -> str:
    """Parse scheme://host[:port] into canonical text: lower-case, default port dropped, no slash at the end."""
    return str(Origin.parse(as_text(value)))


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
    host, port = host_and_port(rest, 0)
    # An IPv6 address may do without brackets, and then has no port.
    host = host_name(rest) if port is None else host
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


def matching(pattern: str, problem: str) -> Callable[[object], str]:
    """Make a parser of texts of one form; `problem` is told of the others, which are not repeated."""

    def parse(value: object) -> str:
        text = as_text(value)
        if not re.fullmatch(pattern, text) or has_control_characters(text):
            raise Bad(problem)
        return text

    return parse


user_agent = matching(
    r"[ -~]+", "must be printable ASCII and not empty, since CardCash answers 401 without a User-Agent"
)
#: Only what cannot be one at all is refused.
email = matching(r".+", "must be an e-mail address")


def secret(form: SecretForm) -> Callable[[object], Secret]:
    """Make a parser of secrets of one form. Blanks at the ends belong to them, but not to what is sent as a header."""

    def parse(value: object) -> Secret:
        text = value if isinstance(value, str) and form is not SecretForm.VISIBLE else as_text(value)
        if problem := form.problem(text):
            raise Bad(problem)
        return Secret(text)

    return parse


@dataclass(frozen=True, slots=True)
class RequiredHeader:
    """A header every caller must send; `file` is where the value was read from, to be read again."""

    name: str
    value: Secret
    file: Path | None = None


def required_header(value: object) -> RequiredHeader:
    """Parse `Name: value`, `Name: /file` or `Name: file:name`.

    Neither value nor file name is ever repeated: a value that begins with "/" by chance is taken for a file's name,
    and a fault must not print it.
    """
    if isinstance(value, bool | list | Mapping):
        raise Bad('must be one text; write it in quotes: "Name: value"')
    name, separator, rest = as_text(value).partition(":")
    rest = rest.strip()
    if not separator or not rest:
        raise Bad('must be a header and its value; write it in quotes: "Name: value" or "Name: /path/of/a/file"')
    if not _TOKEN.fullmatch(name):
        raise Bad('the part before the colon is not a header name; write "Name: value" with a name such as X-Proxy-Key')
    if is_ours(name.encode("ascii")):
        raise Bad(
            "the name before the colon stands for something that HTTP or the proxy itself needs; "
            "choose one of your own, such as X-Proxy-Key"
        )
    if is_file(rest):
        file = Path(re.sub(r"^file:(?://(?=/))?", "", rest))
        try:
            return RequiredHeader(name, read_secret_file(file, SecretForm.HEADER_VALUE), file)
        except Bad as bad:
            problem = f'{bad} (what begins with "/" or "file:" after the colon is the name of a file)'
        raise Bad(problem)
    if SecretForm.HEADER_VALUE.problem(rest):
        raise Bad("the value after the colon holds more than visible ASCII and blanks")
    return RequiredHeader(name, Secret(rest))


def is_file(rest: str) -> bool:
    """Say whether what stands after the name of a required header is the name of a file."""
    return rest.startswith(("/", "file:"))


def store(value: object) -> str | StoreUrl:
    """Parse where the session is kept: memory://, file:///path, or a Redis. Never repeated: it may hold a password."""
    text = as_text(value)
    if is_redis(text):
        return parse_store_url(text)
    scheme, separator, rest = text.partition("://")
    check = STORES.get(scheme.lower()) if separator else None
    problem = "is not a store" if check is None else check(rest)
    if problem:
        raise Bad(f"{problem}; use memory://, file:///path or redis://host")
    return f"{scheme.lower()}://{rest}"


def _file(rest: str) -> str:
    good = rest.startswith("/") and not rest.endswith("/") and not re.search(r"[?#]", rest)
    return "" if good and not has_control_characters(rest) else "file:// takes the absolute path of a file"


#: The kinds of store that are no Redis, each with what says what is wrong with the rest of its text.
STORES: Final[Mapping[str, Callable[[str], str]]] = {
    "memory": lambda rest: "memory:// takes nothing after it" if rest else "",
    "file": _file,
}
