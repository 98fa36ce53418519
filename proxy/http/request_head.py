"""Reading a caller's request head: what counts as a valid request, before anybody is asked about it.

Everything ambiguous is refused (RFC 9112, 11.2). llhttp judges the whole head, its lines are read here, and the fields'
meaning is `core/request_fields.py`'s. Must not know sockets or time.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpRequestParser

from proxy.core.errors import BadRequest, HeadersTooLarge, TargetTooLong
from proxy.core.request_fields import LARGEST_HEAD, RequestFields, read_request
from proxy.core.target import METHODS
from proxy.http.heads import InvalidMessage, check_lines, judged

#: Bytes of a request target, and of one field line.
MAX_TARGET: Final = 16 * 1024
MAX_FIELD: Final = 16 * 1024
MAX_FIELDS: Final = 128
#: Room for a method, a version, and what the bounds above leave open.
_SLACK: Final = 64
#: Bytes of a block of fields that is kept with the connection, to be compared with the next.
_LONGEST_REMEMBERED: Final = 2048
_METHODS: Final = {method.encode("ascii"): method for method in METHODS}
#: Version → whether it is 1.0; and a request line under which llhttp judges the fields of any method.
_VERSIONS: Final = {b"HTTP/1.1": False, b"HTTP/1.0": True}
_START: Final = {False: b"POST / HTTP/1.1\r\n", True: b"POST / HTTP/1.0\r\n"}
#: RFC 9110, 5.6.2: of such characters a method is made.
_TOKEN_START: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_INVALID: Final = "The request is not valid HTTP/1.1."


def read_head(
    data: bytes, required: bytes | None = None, before: RequestFields | None = None
) -> tuple[str, str, RequestFields]:
    """Read `data`, a head up to and with its first empty line; returns method, target and fields.

    The target is as it came; `core/target.py` judges it. `required` as `read_request` takes it. `before` are the fields of
    the head before it on the connection: a client sends the same with most of its requests, and reading them anew costs a
    tenth of a small request. Raises `BadRequest`, `HeadersTooLarge`, `TargetTooLong`.
    """
    start, _, block = data.partition(b"\r\n")
    parts = start.split(b" ")
    if len(parts) != 3:
        raise BadRequest(_INVALID)
    name, target, version = parts
    if len(target) > MAX_TARGET:
        raise TargetTooLong(f"The request target is longer than {MAX_TARGET} bytes.")
    method, http_10 = _METHODS.get(name), _VERSIONS.get(version)
    if method is None:
        raise BadRequest("The request method is not one that is forwarded.")
    if http_10 is None:
        raise BadRequest("The HTTP version is not 1.0 or 1.1.")
    if before is None or before.source != block or before.http_10 is not http_10:
        before = _read(block, http_10, required)
        before.source = block if len(block) <= _LONGEST_REMEMBERED else None
    return method, target.decode("latin-1"), before


def _read(block: bytes, http_10: bool, required: bytes | None) -> RequestFields:
    """Judge the field lines, up to and with the empty one. What they mean does not depend on method and target."""
    try:
        lines = judged(HttpRequestParser, _START[http_10] + block)
    except InvalidMessage:
        raise BadRequest(_INVALID) from None
    if len(lines) > MAX_FIELDS + 3:
        raise HeadersTooLarge(f"The request has more than {MAX_FIELDS} header fields.")
    fields = []
    for line in lines[1:-2]:
        name, _, value = line.partition(b":")
        if len(line) > MAX_FIELD:
            raise HeadersTooLarge(f"A header field is longer than {MAX_FIELD} bytes.")
        fields.append((name, value.strip(b" \t")))
    return read_request(fields, http_10=http_10, required=required)


def check_partial_request(data: bytes | bytearray, known: int) -> None:
    """Refuse the beginning of a head that cannot become a valid one, instead of waiting for more of it.

    `known` bytes of it were checked before; so many segments cost no more than one. Raises as `read_head`.
    """
    try:
        check_lines(data, known)
    except InvalidMessage:
        raise BadRequest(_INVALID) from None
    if not _TOKEN_START.match(data):
        raise BadRequest(_INVALID)
    if len(data) <= MAX_FIELD:
        return
    first, end, _ = data.partition(b"\r\n")
    if len(first) > MAX_TARGET + _SLACK:
        raise TargetTooLong(f"The request target is longer than {MAX_TARGET} bytes.")
    if len(data) - data.rfind(b"\r\n") - 2 > MAX_FIELD and end:
        raise HeadersTooLarge(f"A header field is longer than {MAX_FIELD} bytes.")
    if len(data) > LARGEST_HEAD + MAX_TARGET + 4 * MAX_FIELDS + _SLACK:
        raise HeadersTooLarge(f"The header fields of the request are larger than {LARGEST_HEAD} bytes together.")
