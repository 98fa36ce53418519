"""The drawings of the page for people: SVG that scales with the page, its words in HTML beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from proxy.telemetry.history import STEPS, quantile

_WIDTH: Final = 600
_HEIGHT: Final = 80
_STEP: Final = _WIDTH / STEPS


def life(session: Mapping[str, Any]) -> str:
    """Draw the session's life: what is past, where the renewal window begins, where it ends; "" without a session."""
    lifetime, left, window = (session[name] for name in ("lifetime_seconds", "expires_in_seconds", "window_seconds"))
    if not lifetime or left is None:
        return ""
    past = min(1.0, max(0.0, 1 - left / lifetime))
    begins = 1 - min(lifetime, window or 0.0) / lifetime
    made, ends = f"made {span(lifetime - left)} ago", f"ends in {span(left)}" if left else "has ended"
    to_window = begins * lifetime - (lifetime - left)
    between = f"to be renewed in {span(to_window)}" if to_window > 0 else "in its renewal window"
    return (
        f'<svg class="life" viewBox="0 0 {_WIDTH} 20" preserveAspectRatio="none" role="img" '
        f'aria-label="{made}, {between}, {ends}"><rect class="whole" width="{_WIDTH}" height="20"/>'
        f'<rect class="window" x="{begins * _WIDTH:.1f}" width="{(1 - begins) * _WIDTH:.1f}" height="20"/>'
        f'<rect class="past" width="{past * _WIDTH:.1f}" height="20"/>'
        f'<rect class="now" x="{min(_WIDTH - 3, max(0.0, past * _WIDTH - 1.5)):.1f}" width="3" height="20"/></svg>'
        f'<p class="scale"><span>{made}</span><span><i class="windowed"></i> {between}</span><span>{ends}</span></p>'
    )


def traffic(recent: Mapping[str, Any]) -> str:
    """Draw requests, errors and latency of the last 15 minutes."""
    requests, errors = recent["requests"], recent["errors"]
    if not requests:
        return '<p class="note">Nothing has been measured yet; the first step ends within 15 s of the start.</p>'
    bounds, buckets, seconds = recent["bounds_seconds"], recent["buckets"], recent["step_seconds"]
    usual, slow = ([quantile(step, bounds, share) for step in buckets] for share in (0.5, 0.95))
    most, told_errors, told_latency = 0.0, "none", "no requests"
    if any(errors):
        told_errors = f"{sum(errors) / (sum(requests) or 1):.2%} of all, {_rates(errors, seconds)}"
    # Where there is a usual latency there is a slow one as well.
    if known := [(fast, long) for fast, long in zip(usual, slow, strict=True) if fast is not None and long is not None]:
        most = max(long for _, long in known)
        fast, long = map(span, known[-1])
        told_latency = (
            f'<i class="key0"></i> half within {fast} <i class="key1"></i> 95 % within {long}, most {span(most)}'
        )
    return (
        _figure("Requests", _rates(requests, seconds), _bars(requests, "traffic"))
        + _figure("Errors (5xx)", told_errors, _bars(errors, "errors"))
        + _figure("Latency", told_latency, _line(usual, most, "line0") + _line(slow, most, "line1"))
    )


def span(seconds: float) -> str:
    """Write seconds for people."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _rates(counts: Sequence[int], seconds: float) -> str:
    return f"now {counts[-1] / seconds:.3g} a second, most {max(counts) / seconds:.3g}"


def _bars(values: Sequence[float], kind: str) -> str:
    most = max(values) or 1.0
    start = _WIDTH - len(values) * _STEP
    bars = "".join(
        f'<rect x="{start + place * _STEP:.1f}" y="{_HEIGHT * (1 - value / most):.1f}" width="{_STEP - 1:.1f}" '
        f'height="{_HEIGHT * value / most:.1f}"/>'
        for place, value in enumerate(values)
        if value
    )
    return f'<g class="{kind}">{bars}</g>'


def _line(values: Sequence[float | None], most: float, kind: str) -> str:
    """Draw a step for each value, joined to the one before it; nothing where there was none."""
    start = _WIDTH - len(values) * _STEP
    drawn = []
    for place, (before, value) in enumerate(pairwise([None, *values])):
        if value is not None:
            # A little inside, so that the thickness of a line at the top or the bottom is seen.
            height = 1.5 + (_HEIGHT - 3) * (1 - value / (most or 1.0))
            to = f"M{start + place * _STEP:.1f} {height:.1f}" if before is None else f"V{height:.1f}"
            drawn.append(f"{to}H{start + (place + 1) * _STEP:.1f}")
    return f'<path class="{kind}" d="{"".join(drawn)}"/>' if drawn else ""


def _figure(title: str, words: str, drawing: str) -> str:
    return (
        f'<figure><figcaption><b>{title}</b> <span class="note">{words}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'{drawing}<line class="axis" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/></svg>'
        '<p class="scale"><span>15 min ago</span><span>10</span><span>5</span><span>now</span></p></figure>'
    )
