"""The report: tables for people, JSON for keeping.

Pure: takes results, returns text and plain values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.catalogue import SCENARIOS
from bench.measure import Summary
from bench.results import DIRECT, GOALS, OURS, Results

#: Every metric with its heading and how it is written, in the order of the columns.
COLUMNS = {
    "ready_s": ("ready", "{:.3f} s"),
    "k_instructions": ("1000 instructions/request", "{:.0f}"),
    "cpu_us": ("CPU/request", "{:.1f} µs"),
    "cpu_ms": ("CPU", "{:.0f} ms"),
    "rps": ("requests/s", "{:,.0f}"),
    "mb_per_s": ("MB/s", "{:,.0f}"),
    "first_ms": ("first answer", "{:.1f} ms"),
    "kept_ms": ("next answer", "{:.1f} ms"),
    "p50_ms": ("p50", "{:.2f} ms"),
    "p90_ms": ("p90", "{:.2f} ms"),
    "p99_ms": ("p99", "{:.2f} ms"),
    "added_p99_ms": ("added p99", "{:+.2f} ms"),
    "late_ms": ("generator late p99", "{:.2f} ms"),
    "burst_s": ("revoked: all answered in", "{:.2f} s"),
    "calm_s": ("not revoked", "{:.2f} s"),
    "session_calls": ("session calls", "{:.0f}"),
    "login_calls": ("logins", "{:.0f}"),
    "rejected_answers": ("rejections seen", "{:.0f}"),
    "other_answers": ("not 200", "{:.0f}"),
    "rejected_upstream": ("rejections upstream", "{:.0f}"),
    "peak_mb": ("peak memory", "{:.0f} MB"),
    "grown_mb": ("grown by", "{:.1f} MB"),
    "kb_each": ("memory for each", "{:.0f} kB"),
    "left_mb": ("6 s after their end", "{:+.1f} MB"),
    "rss_mb": ("memory", "{:.0f} MB"),
    "busy": ("its core", "{:.0%}"),
}


def tables(results: Results, missing: Sequence[str] = ()) -> str:
    """Write every scenario's table, what went wrong, and the goals."""
    parts = [_table(name, results, missing) for name in SCENARIOS if name in results.values]
    if results.problems:
        parts.append("\n".join(["Problems", *(f"  {problem}" for problem in results.problems)]))
    return "\n\n".join([*parts, _goals(results)])


def _table(scenario: str, results: Results, missing: Sequence[str]) -> str:
    about, measured = SCENARIOS[scenario].about, results.values[scenario]
    shown = [metric for metric in COLUMNS if any(metric in metrics for metrics in measured.values())]
    # A ratio of differences, such as an added latency near nought, says nothing.
    compared = len(measured) > 1 and about != "added_p99_ms"
    rows = [["", *(COLUMNS[metric][0] for metric in shown)]]
    if compared:
        rows[0].insert(shown.index(about) + 2, f"{OURS} is")
    for peer in sorted(measured, key=lambda peer: (peer != OURS, peer != DIRECT)):
        row = [peer, *(_cell(results.summary(scenario, peer, metric), metric, about) for metric in shown)]
        if compared:
            row.insert(shown.index(about) + 2, "" if peer == OURS else _ratio(results.ratio(scenario, about, peer)))
        rows.append(row)
    if set(measured) - {OURS, DIRECT}:
        rows += [[name, "not installed"] for name in missing]
    rounds = max(len(values) for metrics in measured.values() for values in metrics.values())
    count = "one round" if rounds == 1 else f"{rounds} rounds, medians (lowest–highest)"
    return "\n".join([f"{scenario}: {SCENARIOS[scenario].title}; {count}", *aligned(rows)])


def _cell(found: Summary | None, metric: str, about: str) -> str:
    if found is None:
        return ""
    how = COLUMNS[metric][1]
    return how.format(found.median) + (_spread(found, how) if metric == about else "")


def _spread(found: Summary, how: str) -> str:
    if found.low == found.high:
        return ""
    bare = how.partition("}")[0] + "}"
    return f" ({bare.format(found.low)}–{bare.format(found.high)})"


def _ratio(found: Summary | None) -> str:
    return "" if found is None else f"{found.median:.2f}x" + _spread(found, "{:.2f}")


def aligned(rows: list[list[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max((len(row[n]) for row in rows if n < len(row)), default=0) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def _goals(results: Results) -> str:
    rows = [["", "goal", "measured", ""]]
    for goal in GOALS:
        verdict, found = goal.verdict(results)
        number = "" if found is None else f"{found.median:.2f}{goal.unit}"
        spread = "" if found is None else _spread(found, "{:.2f}")
        rows.append([goal.what, f"{'≥' if goal.at_least else '≤'} {goal.limit:g}{goal.unit}", number + spread, verdict])
    return "\n".join(["Goals", *aligned(rows)])


def as_json(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Return everything: the machine, every round's values, medians and spreads, and the goals."""
    summaries = {
        scenario: {
            peer: {metric: _plain(Summary.of(values)) for metric, values in metrics.items()}
            for peer, metrics in peers.items()
        }
        for scenario, peers in results.values.items()
    }
    goals = []
    for goal in GOALS:
        verdict, found = goal.verdict(results)
        measured = None if found is None else _plain(found)
        bound = "at_least" if goal.at_least else "at_most"
        goals.append({"what": goal.what, bound: goal.limit, "measured": measured, "verdict": verdict})
    return {**about, "medians": summaries, "goals": goals, "problems": results.problems, "rounds": results.values}


def _plain(found: Summary) -> dict[str, float]:
    return {"median": found.median, "min": found.low, "max": found.high}
