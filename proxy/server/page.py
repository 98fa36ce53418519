"""`GET /` of the admin port: one sentence that says how things stand and what to do, and the facts of `/status` below it.

Pure: a status goes in, HTML comes out. No outside resources; readable without scripts, in the dark and on a phone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape as _text
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

from proxy.server import charts
from proxy.server.charts import span

Status = Mapping[str, Any]

#: Share of requests of the last 5 minutes that failed, from which the banner says so, and from which it is red.
_MANY_ERRORS: Final = 0.05
_MOST_FAIL: Final = 0.5
#: Of so many requests at least.
_ENOUGH: Final = 20
_FIVE_MINUTES: Final = 20  # steps


class Banner(NamedTuple):
    """How things stand: green, yellow or red, one sentence, and what to do ("": nothing)."""

    colour: str
    sentence: str
    advice: str


def banner(status: Status) -> Banner:  # a list of checks, the worst first
    """Judge a status by its worst part."""
    session = status["session"]
    usable = session["state"] in ("fresh", "stale")
    refused, advice = session["refused"], session["advice"] or ""
    failing = session["failures_in_a_row"] > 0
    cause, to_do = _last_of_renewals(status) if failing else ("", "")
    store = status["store"]
    requests, errors = _lately(status)
    share = errors / requests if requests >= _ENOUGH else 0.0
    many = f" {share:.0%} of the requests of the last five minutes failed." if share > _MANY_ERRORS else ""
    colour = "red" if share > _MOST_FAIL else "yellow"
    if status["not_alive"]:
        dead = ", ".join(status["not_alive"])
        return Banner("red", f"Part of the proxy has died: {dead}.", "Restart it; its log has a line `bug`.")
    if "app_id" in refused:
        return Banner("red", "CardCash refuses the application id; no session can be made.", advice)
    if status["draining"]:
        return Banner("yellow", "The proxy is stopping and takes no new work.", "")
    if not usable and failing:
        return Banner(
            "red",
            f"There is no session with CardCash, and none can be made{cause}.",
            f"{to_do}{_tried_again(session)}; `cardcash-proxy doctor --no-login` shows where the way is barred.",
        )
    if "login" in refused:
        return Banner(colour, f"CardCash refuses the login; requests go on without an account.{many}", advice)
    if session["identity_lost"]:
        return Banner(
            colour,
            f"The login that a caller made is lost; requests go on without an account.{many}",
            "A caller has to log in again with POST /customers/login.",
        )
    if failing:
        ends = span(session["expires_in_seconds"] or 0.0)
        return Banner(
            colour,
            f"The session could not be renewed{cause}; the one that is held ends in {ends}.{many}",
            f"{to_do}{_tried_again(session)}; if it lasts, `cardcash-proxy doctor --no-login` shows where the way is "
            "barred.",
        )
    if not store["up"]:
        return Banner(
            colour,
            f"The session store cannot be used; the session in memory is. {store['trouble'] or ''}".rstrip() + many,
            "`cardcash-proxy doctor --no-login` says what is wrong with the store.",
        )
    if many:
        ours = any(one["what"].startswith("request") for one in status["recent_failures"])
        look = "Look at the last failures below, and into the log for their codes."
        theirs = "They are CardCash's own answers; the log has their routes: lines of 5xx without a `code`."
        return Banner(colour, many.strip(), look if ours else theirs)
    if not status["ready"]:
        return Banner("yellow", f"Not ready: {', '.join(status['not_ready_because'])}.", "")
    by_itself = session["renews_by_itself"]
    if not usable:
        how = "by itself" if by_itself else "with the next request"
        return Banner("green", f"All is well; the session is made {how}.", "")
    how = "by itself" if by_itself else "when somebody calls again"
    return Banner(
        "green", f"All is well; the session ends in {span(session['expires_in_seconds'])} and is renewed {how}.", ""
    )


def _tried_again(session: Status) -> str:
    """Say when what failed is tried again."""
    if session["renews_by_itself"]:
        return "It is tried again by itself"
    return f"It is tried again with the next request{' after the pause' if session['paused_seconds'] else ''}"


def _last_of_renewals(status: Status) -> tuple[str, str]:
    """Return why the last renewal that failed did, with a colon before it, and what to do as a sentence of its own."""
    sentences = [str(one["sentence"]) for one in status["recent_failures"] if one["what"].startswith("renewal")]
    if not sentences:
        return "", ""
    why, _, to_do = sentences[-1].removeprefix("No session with CardCash: ").rstrip(".").partition("; ")
    return f": {why}", f"{to_do[0].upper()}{to_do[1:]}. " if to_do else ""


def _lately(status: Status) -> tuple[int, int]:
    traffic = status["traffic"]
    return sum(traffic["requests"][-_FIVE_MINUTES:]), sum(traffic["errors"][-_FIVE_MINUTES:])


def render(status: Status, *, version: str) -> str:
    """Write the page."""
    shown = banner(status)
    session = status["session"]
    advice = f"<p>{_prose(shown.advice)}</p>" if shown.advice else ""
    sections = (
        f'<section class="banner {shown.colour}" role="status"><h1>{_prose(shown.sentence)}</h1>{advice}</section>',
        _section("Session", charts.life(session) + _facts(_session_facts(session))),
        _section("Pauses and refusals", _facts(_in_the_way(session)), "Nothing is paused or refused."),
        _section("Traffic, the last 15 minutes", charts.traffic(status["traffic"])),
        _section("Last renewals", _renewals(status), "None by the processes that run now."),
        _section("Last failures", _failures(status), "None of the proxy's own since the start."),
        _section("Processes", _processes(status["processes"])),
        _section("Store of the session", _facts(_shown(status["store"]))),
        _section("Connections to CardCash", _facts(_shown(status["upstream"]))),
    )
    return _PAGE.substitute(
        colour=shown.colour,
        style=_STYLE,
        sections="".join(sections),
        version=_text(version),
        since=_time(status["since"]),
        script=_SCRIPT,
    )


def _section(title: str, body: str, without: str = "") -> str:
    """Write a section, of the words `without` where there is nothing to show; "" without those as well."""
    body = body or (f'<p class="note">{without}</p>' if without else "")
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


_SOURCES: Final = {"session": "a session call", "harvest": "an answer", "store": "the store", "login": "a login"}


def _session_facts(session: Status) -> dict[str, str]:
    account = session["identity"] or ("lost" if session["identity_lost"] else "anonymous")
    if session["identity_from_caller"] and session["identity"]:
        account += ", from a caller's login"
    facts = {"state": session["state"], "account": account}
    if session["source"]:
        facts["from"] = _SOURCES.get(session["source"], session["source"])
    if session["expires_at"]:
        facts["ends"] = f"{_time(session['expires_at'])} UTC"
    facts["renewals"] = f"{session['renewals']}, and {session['harvests']} refreshed by answers"
    facts["callers waiting"] = str(session["waiters"])
    return facts


def _in_the_way(session: Status) -> dict[str, str]:
    """List what keeps the proxy from trying: pauses and refusals."""
    facts, refused = {}, session["refused"]
    if session["paused_seconds"] and "app_id" not in refused:
        failures = session["failures_in_a_row"]
        facts["paused"] = f"no renewal for another {span(session['paused_seconds'])}, after {failures} failed in a row"
    if refused:
        facts["refused"] = f"{', '.join(refused)}; not tried again by itself"
        facts["to do"] = session["advice"] or "–"
    return facts


def _renewals(status: Status) -> str:
    rows = [
        (
            _time(one["time"]),
            _text(one["reason"]),
            _marked(one["result"], good=one["result"] in ("ok", "superseded"))
            + (" from the store" if one["source"] == "store" else ""),
            "–" if one["seconds"] is None else span(one["seconds"]),
        )
        for one in reversed(status["recent_renewals"])
    ]
    return _table(("when (UTC)", "reason", "result", "took"), rows)


def _failures(status: Status) -> str:
    failures = []
    for one in reversed(status["recent_failures"]):
        times, last = (f" ×{one['times']}", "last ") if one["times"] > 1 else ("", "")
        when = f'<span class="note">{last}{_time(one["time"])} UTC</span>'
        failures.append(f"<li><b>{_text(one['what'])}</b>{times} {when}<p>{_prose(one['sentence'])}</p>")
    return f"<ul>{''.join(failures)}</ul>" if failures else ""


#: How what is shown of a process and of the store is called, where its name says too little.
_CALLED: Final = {
    "requests_in_flight": "in flight",
    "memory_mb": "memory",
    "since": "since (UTC)",
    "up": "answers",
    "pending": "something waits to be written",
    "alone": "the held session is another than its",
}
_COLUMNS: Final = ("worker", "pid", "state", "requests_in_flight", "requests", "memory_mb", "restarts", "since")


def _called(name: str) -> str:
    return _CALLED.get(name, name.replace("_", " "))


def _processes(processes: Sequence[Status]) -> str:
    names = [name for name in _COLUMNS if any(name in one for one in processes)]
    return _table(map(_called, names), [[_cell(name, one.get(name)) for name in names] for one in processes])


def _cell(name: str, value: object) -> str:
    if value is None:
        return "–"
    if name == "since":
        return _time(value)
    if name == "state":
        return _marked(str(value), good=value == "up")
    return f"{value:.0f} MB" if name == "memory_mb" and isinstance(value, float) else _text(str(value))


def _shown(facts: Status) -> dict[str, str]:
    words = {True: "yes", False: "no"}
    return {
        _called(name): words[value] if isinstance(value, bool) else str(value)
        for name, value in facts.items()
        if value is not None
    }


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{_text(name)}<dd>{_prose(value)}" for name, value in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table of cells that are HTML already; "" without any."""
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    head = "".join(f"<th>{_text(name)}" for name in heads)
    return f'<div class="wide"><table><thead><tr>{head}<tbody>{body}</table></div>' if body else ""


def _marked(word: str, *, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{_text(word)}</span>'


def _prose(sentence: str) -> str:
    """Write a sentence in which `commands` stand."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _text(sentence))


def _time(iso: object) -> str:
    try:
        return datetime.fromisoformat(str(iso)).strftime("%d %b %H:%M:%S")
    except ValueError:
        return "–"


_HTML, _STYLE, _SCRIPT = (Path(__file__).with_name(f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
_PAGE: Final = Template(_HTML)


def _hashed(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


#: Nothing but our own style and script, and fetching this page again.
POLICY: Final = (
    f"default-src 'none'; style-src {_hashed(_STYLE)}; script-src {_hashed(_SCRIPT)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
