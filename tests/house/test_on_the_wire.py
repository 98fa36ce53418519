"""What config/README.md says of the wire is held to the code's own tables, both ways."""

from __future__ import annotations

import re

import pytest

from proxy.core import answer_fields, request_fields
from proxy.core.attempts import Failed, Send, Traits, attempts
from proxy.core.errors import UpstreamError, UpstreamInvalid, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from proxy.core.rejection_history import RejectionHistory
from tests.house.pages import ROOT, table, text_of, ticked

SECTION = text_of("config/README.md").partition("\n## On the wire\n")[2].partition("\n## ")[0]
ROWS = {ticked(row[0])[0]: row for row in table("kind")}


def _text(name: str) -> str:
    return (ROOT / "proxy/upstream" / name).read_text()


def _kinds_of_the_code() -> set[str]:
    source = "".join(path.read_text() for path in (ROOT / "proxy/upstream").glob("*.py"))
    made = re.findall(r'(?:unreachable|reset|timed_out|_refused)\(\s*"(\w+)"', source)
    named = re.findall(r'kind(?: in|=|, failure\.proxy_status =)\s*"(\w+)"', source)
    return {*made, *named} | set(re.findall(r'^ +"(\w+)": "', _text("error_kinds.py"), re.MULTILINE))


def test_every_kind_of_failure_has_its_row_and_no_other() -> None:
    assert set(ROWS) == _kinds_of_the_code() | {"proxy"}


def _is_sent_again(error: UpstreamError, *, safe: bool) -> bool:
    flow = attempts(Failed(error), Traits("GET /a", safe=safe, may_buy=False), RejectionHistory())
    try:
        return isinstance(next(flow), Send)
    except UpstreamError:
        return False


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_says_whether_the_proxy_tries_again_as_the_code_decides(kind: str) -> None:
    unsent = kind in {"dns", "refused", "unreachable", "connect_timeout", "tls", "proxy"}
    family: type[UpstreamError] = UpstreamUnreachable if unsent else UpstreamReset
    if kind == "invalid":
        family = UpstreamInvalid
    elif kind.endswith("_timeout") and not unsent:
        family = UpstreamTimeout
    again = {safe: _is_sent_again(family("", kind=kind, sent=not unsent), safe=safe) for safe in (True, False)}
    says = ROWS[kind][3]
    assert says == ("any request" if again[False] else "no" if not again[True] else says)
    assert (says not in ("any request", "no")) == (again[True] and not again[False])
    assert f"{family.status} `{family.code}`" in ROWS[kind][4] or "visibly broken" in ROWS[kind][4]


@pytest.mark.parametrize("name", sorted(request_fields.NEVER_UP))
def test_what_never_goes_up_is_listed(name: bytes) -> None:
    listed = SECTION.partition("**Never up:**")[2].partition("\n\n")[0]
    assert f"`{name.decode()}`" in listed or name.startswith(b"proxy-")


@pytest.mark.parametrize("name", sorted(answer_fields.NEVER_DOWN))
def test_what_never_comes_down_is_listed(name: bytes) -> None:
    listed = SECTION.partition("**Never down:**")[2].partition("\n\n")[0]
    assert f"`{name.decode()}`" in listed or name.startswith(b"proxy-")
