"""What an error of CardCash says, and what a rejected token looks like (core/README.md, "Errors"): by an answer's whole
message, never by a part of it.

What is known of rejections so far stands in `rejection_history.py`; what follows from one, in `attempts.py`.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Final, NamedTuple

#: Documented: what an expired or missing token is answered with; compared trimmed and without case.
DOCUMENTED_REJECTION: Final = "no Authorization token was found"
#: Undocumented, but usual for the libraries behind such an API.
REJECTION_VARIANTS: Final = frozenset(
    {
        "jwt expired",
        "jwt malformed",
        "invalid token",
        "invalid signature",
        "jwt not active",
        "the token has expired",
        "authorization token expired",
    }
)
#: Bytes of a rejection, as of any error of CardCash's: a short envelope; a longer answer is none.
LONGEST_REJECTION: Final = 64 * 1024
#: Statuses a rejection can have: 400 is documented.
REJECTION_STATUSES: Final = frozenset({400, 401})


class Rejection(Enum):
    """What a 400 or 401 says about the token it was sent with."""

    NONE = "none"
    #: The documented wording in CardCash's envelope: refused before anything was processed.
    DOCUMENTED = "documented"
    #: A wording nobody documented: surely a rejection, but not surely before anything was processed.
    VARIANT = "variant"
    #: A bare 400 to a HEAD, which has no body that could say more.
    BARE = "bare"


class ErrorBody(NamedTuple):
    """What an error says, trimmed, and whether it stands in CardCash's envelope."""

    message: str
    envelope: bool


def judge_answer_to_head(status: int) -> Rejection:
    """Judge the answer to a HEAD by its status alone: a 400 counts, since it may be a rejection."""
    return Rejection.BARE if status == 400 else Rejection.NONE


def judge_rejection(status: int, body: bytes) -> Rejection:
    """Judge the decoded body of an answer to any other method.

    Accepted shapes: those of `read_error`.
    """
    if status not in REJECTION_STATUSES:
        return Rejection.NONE
    error = read_error(body)
    if error is None:
        return Rejection.NONE
    wording = error.message.lower()
    if wording == DOCUMENTED_REJECTION.lower():
        # To the letter, with its status and in the envelope it is documented. express-jwt's "No authorization token was
        # found" differs by its capitals only; it is among the variants, and money is safer with it there.
        documented = status == 400 and error.envelope and error.message == DOCUMENTED_REJECTION
        return Rejection.DOCUMENTED if documented else Rejection.VARIANT
    return Rejection.VARIANT if wording in REJECTION_VARIANTS else Rejection.NONE


def read_error(body: bytes) -> ErrorBody | None:
    """Read the decoded body of an error; None where it says nothing, or is longer than CardCash's are.

    Accepted shapes: CardCash's envelope with `message` as an array (its first element) or a string, other fields or none
    beside it, a BOM, white space; outside of the envelope also a bare JSON string or array, or plain text.
    """
    if len(body) > LONGEST_REJECTION:
        return None
    text = body.decode("utf-8-sig", "replace").strip().strip("\0")
    content = json_or(text, text)
    envelope = isinstance(content, dict)
    message = content.get("message") if isinstance(content, dict) else content
    if isinstance(message, list):
        message = message[0] if message else None
    return ErrorBody(message.strip(), envelope) if isinstance(message, str) else None


def json_or(text: str | bytes, default: Any) -> Any:
    """Read JSON of any shape, bytes in UTF-8 with or without a byte order mark; `default` where it is none."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return default
