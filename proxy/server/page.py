"""`GET /` of the admin port: one sentence that says how things stand and what to do, and the facts of `/status` below it.

Pure: a status goes in, HTML comes out. No outside resources; readable without scripts, in the dark and on a phone.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from proxy.telemetry.history import quantile

Status = Mapping[str, Any]

#: Share of requests of the last 5 minutes that failed, from which the banner says so.
_MANY_ERRORS: Final = 0.05
_FIVE_MINUTES: Final = 20  # steps
_WIDTH, _HEIGHT = 600, 80


class Banner(NamedTuple):
    """How things stand: green, yellow or red, one sentence, and what to do ("": nothing)."""

    colour: str
    sentence: str
    advice: str


def banner(status: Status) -> Banner:  # a list of checks, the worst first
    """Judge a status by its worst part."""
    session = status["session"]
    usable = session["state"] in ("fresh", "stale")
    refused = set(session.get("refused") or ())
    failure = status.get("last_failure")
    why = f" {failure['sentence']}" if failure and session["failures_in_a_row"] else ""
    if status.get("not_alive"):
        return Banner(
            "red",
            f"Part of the proxy has died: {', '.join(status['not_alive'])}.",
            "Restart it; its log has a line `bug`.",
        )
    if "app_id" in refused:
        return Banner("red", "CardCash refuses the application id; nothing can be served.", session["advice"] or "")
    if status["draining"]:
        return Banner("yellow", "The proxy is stopping and takes no new work.", "")
    if not usable and session["failures_in_a_row"]:
        return Banner(
            "red",
            f"There is no session with CardCash, and none can be made.{why}",
            "It is tried again by itself; `cardcash-proxy doctor` shows where the way is barred.",
        )
    if "login" in refused:
        return Banner(
            "yellow", "CardCash refuses the login; requests go on without an account.", session["advice"] or ""
        )
    if session["identity_lost"]:
        return Banner(
            "yellow",
            "The login that a caller made is lost; requests go on without an account.",
            "A caller has to log in again with POST /customers/login.",
        )
    if session["failures_in_a_row"]:
        return Banner(
            "yellow",
            f"The session is good, but could not be renewed.{why}",
            "It is tried again by itself before it ends.",
        )
    store = status.get("store") or {}
    if store.get("up") is False:
        return Banner(
            "yellow",
            "The session store cannot be reached; the session in memory is used.",
            "`cardcash-proxy doctor` says what is wrong with the store.",
        )
    requests, errors = _lately(status)
    if requests >= 20 and errors / requests > _MANY_ERRORS:
        return Banner(
            "yellow",
            f"{errors / requests:.0%} of the requests of the last five minutes failed.",
            "Look at `request_errors_total` and `upstream_errors_total` in the metrics, and at the log.",
        )
    if not status["ready"]:
        return Banner("yellow", f"Not ready yet: {', '.join(status['not_ready_because'])}.", "")
    if not usable:
        return Banner("green", "All is well; the session is made with the next request.", "")
    return Banner(
        "green",
        f"All is well; the session ends in {_span(session['expires_in_seconds'])} and is renewed by itself.",
        "",
    )


def _lately(status: Status) -> tuple[int, int]:
    traffic = status.get("traffic") or {}
    return sum(traffic.get("requests", [])[-_FIVE_MINUTES:]), sum(traffic.get("errors", [])[-_FIVE_MINUTES:])


def render(status: Status, *, version: str) -> str:
    """Write the page."""
    told = banner(status)
    advice = f"<p>{html.escape(told.advice)}</p>" if told.advice else ""
    sections = (
        f'<section class="banner {told.colour}" role="status"><h1>{html.escape(told.sentence)}</h1>{advice}</section>',
        _section("Session", _life(status["session"]) + _facts(_session_facts(status["session"]))),
        _section("Traffic, the last 15 minutes", _charts(status)),
        _section("Last renewals", _table(("when", "reason", "result", "took"), _renewals(status))),
        _section("Last failures", _table(("when", "what", "sentence"), _failures(status))),
        _section("Processes", _processes(status)),
        _section("Store", _facts(status.get("store") or {})),
        _section("Upstream", _facts(status["upstream"])),
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>cardcash-proxy: {told.colour}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,"><noscript><meta http-equiv="refresh" content="10"></noscript>'
        f"<style>{_STYLE}</style></head><body><main>{''.join(sections)}</main>"
        f"<footer>cardcash-proxy {html.escape(version)} · "
        'since <time>{since}</time> · <a href="/status">status</a> · <a href="/metrics">metrics</a> · '
        '<a href="/readyz">readyz</a> · <a href="/healthz">healthz</a></footer>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    ).replace("{since}", html.escape(str(status["since"])))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _session_facts(session: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "state": session["state"],
        "account": session["identity"] or ("lost" if session["identity_lost"] else "anonymous"),
        "source": session["source"],
        "ends": session["expires_at"],
        "renewals · harvests": f"{session['renewals']} · {session['harvests']}",
        "callers waiting": session["waiters"],
    }
    if session["paused_seconds"]:
        facts["pause after failures"] = _span(session["paused_seconds"])
    if session.get("refused"):
        facts["refused"] = ", ".join(session["refused"])
    return facts


def _life(session: Mapping[str, Any]) -> str:
    """Draw the session's life: what is past, where the renewal window begins, where it ends."""
    lifetime, left, window = (
        session.get(name) for name in ("lifetime_seconds", "expires_in_seconds", "window_seconds")
    )
    if not lifetime or left is None:
        return ""
    past = min(1.0, max(0.0, 1 - left / lifetime))
    begins = 1 - min(lifetime, window or 0.0) / lifetime
    width = _WIDTH
    words = f"made {_span(lifetime - left)} ago, ends in {_span(left)}"
    return (
        f'<svg class="life" viewBox="0 0 {width} 24" role="img" aria-label="{words}">'
        f'<rect class="whole" width="{width}" height="14"/>'
        f'<rect class="window" x="{begins * width:.1f}" width="{(1 - begins) * width:.1f}" height="14"/>'
        f'<rect class="past" width="{past * width:.1f}" height="14"/>'
        f'<rect class="now" x="{max(0.0, past * width - 1):.1f}" width="2" height="20"/></svg>'
        f'<p class="note">{words}; the yellow end is the window in which it is renewed</p>'
    )


def _charts(status: Status) -> str:
    traffic = status.get("traffic") or {}
    requests, errors = traffic.get("requests", []), traffic.get("errors", [])
    if not requests:
        return '<p class="note">Nothing has been measured yet; the first step ends 15 s after the start.</p>'
    bounds, buckets = traffic["bounds_seconds"], traffic["buckets"]
    seconds = traffic["step_seconds"]
    slow = [quantile(step, bounds, 0.95) for step in buckets]
    usual = [quantile(step, bounds, 0.5) for step in buckets]
    most = max((value for value in slow if value is not None), default=0.0)
    return (
        _bars("requests a second", [count / seconds for count in requests], "traffic")
        + _bars("errors a second", [count / seconds for count in errors], "errors")
        + _lines(f"latency: half and 95 % below; top {_span(most)}", (usual, slow), most)
    )


def _bars(title: str, values: Sequence[float], kind: str) -> str:
    most = max(values) or 1.0
    step = _WIDTH / 60
    start = _WIDTH - len(values) * step
    bars = "".join(
        f'<rect x="{start + place * step:.1f}" y="{_HEIGHT * (1 - value / most):.1f}" width="{step - 1:.1f}" '
        f'height="{_HEIGHT * value / most:.1f}"/>'
        for place, value in enumerate(values)
        if value
    )
    return _figure(title, f"now {values[-1]:.2g}, most {max(values):.2g}", f'<g class="{kind}">{bars}</g>')


def _lines(title: str, series: Sequence[Sequence[float | None]], most: float) -> str:
    step = _WIDTH / 60
    drawn = []
    for number, values in enumerate(series):
        start = _WIDTH - len(values) * step
        points = " ".join(
            f"{start + (place + 0.5) * step:.1f},{_HEIGHT * (1 - value / (most or 1.0)):.1f}"
            for place, value in enumerate(values)
            if value is not None
        )
        drawn.append(f'<polyline class="line{number}" points="{points}"/>')
    return _figure(title, "", "".join(drawn))


def _figure(title: str, note: str, drawing: str) -> str:
    return (
        f'<figure><figcaption>{html.escape(title)} <span class="note">{html.escape(note)}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{html.escape(title)}">'
        f'<line class="axis" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/>{drawing}</svg></figure>'
    )


def _renewals(status: Status) -> list[tuple[str, ...]]:
    return [
        (_clock(one["at"]), one["reason"], one["result"], "" if one["seconds"] is None else _span(one["seconds"]))
        for one in reversed(status.get("recent_renewals") or [])
    ]


def _failures(status: Status) -> list[tuple[str, ...]]:
    return [(_clock(one["at"]), one["what"], one["sentence"]) for one in reversed(status.get("recent_failures") or [])]


def _processes(status: Status) -> str:
    processes = status.get("workers") or status.get("processes") or []
    if not isinstance(processes, list) or not processes:
        return ""
    names = list(processes[0])
    return _table(names, [tuple(str(one.get(name, "")) for name in names) for one in processes])


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{html.escape(name.replace('_', ' '))}<dd>{html.escape('–' if value in (None, '') else str(value))}"
        for name, value in facts.items()
    )
    return f"<dl>{rows}</dl>" if rows else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
    return f'<div class="wide"><table><tr>{head}{body}</table></div>'


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%S UTC")


def _span(seconds: float) -> str:
    """Write seconds for people."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_STYLE: Final = """
:root{--text:#1b1f24;--soft:#5b6570;--line:#d8dee4;--back:#fff;--card:#f6f8fa;--blue:#0969da;--red:#cf222e}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9198a1;--line:#30363d;--back:#0d1117;--card:#161b22;
--blue:#4493f8;--red:#f85149}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);margin:0 auto;
max-width:60rem;padding:1rem}section{margin:0 0 1.5rem}h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:0 0 .5rem}
.banner{padding:1rem 1.25rem;border-radius:.5rem;color:#fff}.banner p{margin:.25rem 0 0}
.green{background:#1a7f37}.yellow{background:#8a5a00}.red{background:#b3202c}
.note{color:var(--soft);font-size:.85rem;margin:.1rem 0}svg{display:block;width:100%;height:5rem}.life{height:1.6rem}
.whole{fill:var(--line)}.past{fill:var(--blue);opacity:.75}.window{fill:#bf8700;opacity:.55}.now{fill:var(--text)}
.axis{stroke:var(--line)}.traffic{fill:var(--blue)}.errors{fill:var(--red)}
polyline{fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke}.line0{stroke:var(--blue)}.line1{stroke:#bf8700}
figure{margin:0 0 .75rem;background:var(--card);padding:.5rem .75rem;border-radius:.5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0}dt{color:var(--soft)}dd{margin:0;
overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}th{text-align:left;
color:var(--soft);font-weight:500}td,th{padding:.2rem .75rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top}
footer{color:var(--soft);font-size:.85rem}a{color:var(--blue)}
"""
#: Takes the new content in place of the old, so that nothing flashes and no scroll is lost.
_SCRIPT: Final = (
    "setInterval(async()=>{try{const t=await(await fetch('/',{cache:'no-store'})).text();"
    "const d=new DOMParser().parseFromString(t,'text/html');document.title=d.title;"
    "document.querySelector('main').replaceWith(d.querySelector('main'))}catch(e){"
    "document.title='cardcash-proxy: no answer'}},5000)"
)


def _hashed(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


#: Nothing but our own style and script, and fetching this page again.
POLICY: Final = (
    f"default-src 'none'; style-src {_hashed(_STYLE)}; script-src {_hashed(_SCRIPT)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
