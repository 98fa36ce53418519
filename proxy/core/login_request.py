"""Whose login is it? A caller's body of `POST /customers/login`, read as every reader of CardCash's might read it.

The proxy remembers the account that it reads here; if CardCash read another one from the same bytes, all callers would be
served that one. So what two readers could read as two accounts is no login at all.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qs

from proxy.core.lenient import CodedTooDeep, decodings, folded, visible

_FORM: Final = b"application/x-www-form-urlencoded"
_UTF8: Final = frozenset({b"utf-8", b"utf8"})
#: Charsets that read ASCII as UTF-8 does.
_LIKE_ASCII: Final = _UTF8 | {b"us-ascii", b"iso-8859-1", b"windows-1252"}
#: What may stand around an e-mail, and be left out by one reader and not by another: nobody's account is told apart by it.
_BLANKS: Final = " \t\r\n"
#: A field of a form's customer that is not about whose login it is; `customer[email]` is looked at by itself.
_CUSTOMER_FIELD: Final = re.compile(r"customer\[[A-Za-z_]+\]\Z")
_IN_FORMS: Final = re.compile("[&;=]")


class AmbiguousLogin(ValueError):
    """A caller's login whose account cannot be told with certainty. It says no more: nothing of a login is repeated."""


def login_email(body: bytes, content_type: bytes, query: str = "") -> str:
    """Read whose login a caller's body is; the password is not looked at. `query` is what its target has after the "?".

    JSON, whatever its Content-Type says (curl -d says form), or a form. Raises `AmbiguousLogin` when the account cannot
    be told, or when another reader could tell another one from the same bytes.
    """
    kind, _, parameters = content_type.lower().partition(b";")
    charset = re.search(rb"charset\s*=\s*\"?([^\s\";]*)", parameters)
    if b"," in content_type or (charset and charset[1] not in (_LIKE_ASCII if body.isascii() else _UTF8)):
        # "a+AEA-b" is one address in UTF-8 and another in UTF-7.
        raise AmbiguousLogin
    if any(_tells_whose(name) for name in _names_in_form(query)):
        # Many frameworks put the fields of query and body together.
        raise AmbiguousLogin
    try:
        text = body.decode("utf-8-sig")
        # JSON is read whatever its type says: curl and many a client send it as a form.
        is_form = kind.strip() == _FORM and not text.lstrip().startswith("{")
        email = _email_in_form(text) if is_form else _email_in_json(text)
    except (ValueError, RecursionError):
        raise AmbiguousLogin from None
    email = email.strip(_BLANKS) if isinstance(email, str) else ""
    if not email or not email.isprintable():
        # Some readers drop, replace or cut at what is not printable.
        raise AmbiguousLogin
    return email


def _email_in_json(text: str) -> object:
    telling: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({_folded(key) for key, _ in pairs}) != len(pairs):
            raise AmbiguousLogin
        telling.extend(key for key, _ in pairs if _tells_whose(key))
        return dict(pairs)

    content = json.loads(text, object_pairs_hook=once)
    # Inner objects are read first. A second e-mail elsewhere may be the one that another reader looks for.
    if telling != ["email", "customer"]:
        raise AmbiguousLogin
    # A password such as "&customer[email]=b@…" makes the same bytes a form about somebody else. A line without any sign of
    # a form, as JSON has many, names nobody.
    lines = [line if _IN_FORMS.search(line) else "" for line in re.split("[\r\n]", text.strip())]
    if any(_tells_whose(name) for name in _names_in_form("\n".join(lines))[1:]):
        raise AmbiguousLogin
    customer = content.get("customer") if isinstance(content, dict) else None
    return customer.get("email") if isinstance(customer, dict) else None


def _email_in_form(text: str) -> str:
    names = _names_in_form(text)
    # Parsers of nested forms would also read "customer[email][]" or "customer[email" as the e-mail, or as one more.
    telling = [name for name in names if _tells_whose(name) and not _CUSTOMER_FIELD.match(name)]
    about = [name for name in names if "email" in _folded(name)]
    values = parse_qs(text, errors="strict").get("customer[email]", [])
    if telling or about != ["customer[email]"] or len(values) != 1:
        raise AmbiguousLogin
    return values[0]


def _names_in_form(text: str) -> list[str]:
    """List the names of a form's fields, split at every character at which some reader splits, decoded to the end."""
    return [_decoded(part.partition("=")[0]) for part in re.split("[&;\r\n]", text)]


def _decoded(name: str) -> str:
    try:
        *_, last = decodings(name.encode())
    except CodedTooDeep:
        raise AmbiguousLogin from None
    return last.decode("utf-8", "replace")


def _folded(name: str) -> str:
    """Write a name as the most lenient reader would."""
    return visible(folded(name))


def _tells_whose(name: str) -> bool:
    return any(word in _folded(name) for word in ("customer", "email"))


def account_key(email: str) -> bytes:
    """Return what is the same for two spellings of one account's e-mail: the case of ASCII letters means nothing.

    That of others does, and look-alikes are other accounts: U+212A is no "k", and "ß" is not "ss".
    """
    return email.strip(_BLANKS).encode("utf-8", "surrogatepass").lower()


def same_account(one: str, other: str) -> bool:
    """Say whether two e-mails are one account's."""
    return account_key(one) == account_key(other)
