"""Makes dashboard.json, of the classes of Grafana's own SDK: `make dashboard`.

Every selector has the three variables in it, so that one dashboard serves one process, one fleet or all of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).with_name("dashboard.json")
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${source}")
CHOSEN = 'namespace=~"$namespace",job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
#: A request that failed, whoever made its answer.
BROKEN = 'status=~"5.."'
#: Colours, from their lower bound.
Steps = dict[float, str]


def of(metric: str, more: str = "") -> str:
    """Select what is chosen of a metric; ours by its name without prefix."""
    name = metric if metric.startswith(("process_", "python_")) else f"cardcash_proxy_{metric}"
    return f"{name}{{{CHOSEN}{',' + more if more else ''}}}"


def rate(metric: str, by: str = "", more: str = "") -> str:
    """Count events a second, summed, or by labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({of(metric, more)}{RATE}))"


def counted(metric: str, by: str) -> str:
    """Count events in a step of the picture; those that did not happen are left out."""
    return f"sum by ({by}) (increase({of(metric)}{RATE})) > 0"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Estimate the duration that a share of events does not exceed, in seconds."""
    return (
        f"histogram_quantile({share}, sum by (le{', ' + by if by else ''}) (rate({of(f'{histogram}_bucket')}{RATE})))"
    )


# Of all requests, by status: never above 100 %.
FAILED = f"({rate('requests_total', more=BROKEN)} or vector(0)) / {rate('requests_total')}"
LIFE = f"clamp_min({of('session_expiry_timestamp_seconds')} - time(), 0)"
STATE = (
    f"max(({of('session_expiry_timestamp_seconds')} <= bool time())"
    f" or on (namespace, job, instance, what) 2 * {of('session_latched')})"
)
P95 = quantile(0.95, "request_duration_seconds")


def query(expression: str, legend: str = "", *, ref: str = "A", at_once: bool = False) -> prometheus.Dataquery:
    """One query; `at_once`: of the last moment only, as a table."""
    made = prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").ref_id(ref).datasource(SOURCE)
    return made.instant().format(PromQueryFormat.TABLE) if at_once else made.range()


def thresholds(base: str, steps: Steps) -> dashboard.ThresholdsConfig:
    """Colours from `base` upwards."""
    found = [model.Threshold(value=None, color=base)]
    found += [model.Threshold(value=value, color=color) for value, color in steps.items()]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def number(
    title: str,
    text: str,
    expression: str,
    *,
    unit: str = "none",
    base: str = "green",
    steps: Steps,
    **words: tuple[str, str],
) -> stat.Panel:
    """A big number; `words` are texts and colours in its place, by `_VALUE`."""
    shown = {key.lstrip("_"): model.ValueMappingResult(text=word, color=color) for key, (word, color) in words.items()}
    panel = stat.Panel().title(title).description(text).datasource(SOURCE).height(4).span(4).unit(unit)
    panel = panel.thresholds(thresholds(base, steps)).with_target(query(expression, title)).no_value("–")
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0)
    panel = panel.color_mode(options.BigValueColorMode.BACKGROUND).graph_mode(options.BigValueGraphMode.AREA)
    return panel.mappings([model.ValueMap(options=shown)] if shown else [])


def lines(
    title: str, text: str, unit: str, *queries: tuple[str, str], steps: Steps | None = None, wide: bool = False
) -> timeseries.Panel:
    """A picture over time; `queries` are expressions with their legends, `steps` limits to draw."""
    panel = timeseries.Panel().title(title).description(text).datasource(SOURCE).height(8).span(12 if wide else 8)
    panel = panel.unit(unit).min(0).fill_opacity(8).show_points(options.VisibilityMode.NEVER)
    panel = panel.tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
    for ref, (expression, legend) in zip("ABCDE", queries, strict=False):
        panel = panel.with_target(query(expression, legend, ref=ref))
    if steps:
        style = common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds("green", steps)).thresholds_style(style)
    return panel


def routes() -> table.Panel:
    """One row for each route that was called."""
    panel = table.Panel().title("Routes").datasource(SOURCE).height(9).span(24).show_header(True)
    panel = panel.description("Requests a second, the share that failed (5xx), and p95 in seconds, of each route.")
    failed, asked = rate("requests_total", "route", BROKEN), rate("requests_total", "route")
    for ref, expression in (
        ("rate", f"{asked} > 0"),
        ("failed", f"({failed} or 0 * {asked}) / ({asked} > 0)"),
        ("p95", f"{quantile(0.95, 'request_duration_seconds', 'route')} > 0"),
    ):
        panel = panel.with_target(query(expression, ref=ref, at_once=True))
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    names = {"Value #rate": "requests / s", "Value #failed": "failed", "Value #p95": "p95"}
    order = {"excludeByName": {"Time": True}, "renameByName": names}
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=order))
    panel = panel.override_by_name("failed", [model.DynamicConfigValue(id_val="unit", value="percentunit")])
    return panel.override_by_name("p95", [model.DynamicConfigValue(id_val="unit", value="s")])


def chooser(name: str, narrowed: str) -> dashboard.QueryVariable:
    """A variable with the values of a label; all of them includes those without it."""
    asked = f"label_values(cardcash_proxy_build_info{{{narrowed}}}, {name})"
    made = dashboard.QueryVariable(name).label(name).datasource(SOURCE).multi(True).include_all(True).all_value(".*")
    everything = model.VariableOption(text="All", value="$__all", selected=True)
    made = made.query({"query": asked, "refId": name}).current(everything)
    return made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def panels() -> list[Any]:
    """All of it, from what is looked at first."""
    three = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    return [
        dashboard.Row("Now"),
        number(
            "Session ends in",
            "Until the held token ends, in the process where it ends first. It is renewed before; while idle none is held.",
            f"min({LIFE})",
            unit="s",
            base="red",
            steps={30: "yellow", 120: "green"},
            _0=("none", "yellow"),
        ),
        number(
            "State",
            "none: the next request makes a session. refused: CardCash refused the login or the application id.",
            STATE,
            steps={1: "yellow", 2: "red"},
            _0=("held", "green"),
            _1=("none", "yellow"),
            _2=("refused", "red"),
        ),
        number(
            "Error rate",
            "The share of requests that got 5xx.",
            FAILED,
            unit="percentunit",
            steps={0.01: "yellow", 0.05: "red"},
        ).max(1),
        number("p95", "19 of 20 requests are answered in this time.", P95, unit="s", steps={10: "yellow", 30: "red"}),
        number(
            "In flight",
            "Requests being served. limits.in_flight is 1000 unless set.",
            f"sum({of('requests_in_flight')})",
            steps={700: "yellow", 950: "red"},
        ),
        number(
            "Latched",
            "What CardCash refused is not tried again, lest the account be locked: put it right, or run session renew.",
            f"max({of('session_latched')})",
            steps={1: "red"},
            _0=("nothing", "green"),
            _1=("refused", "red"),
        ),
        dashboard.Row("Traffic"),
        lines("Requests by status", "499: the caller left.", "reqps", (rate("requests_total", "status"), "{{status}}")),
        lines(
            "Requests that fail",
            "The share of 5xx, CardCash's own included.",
            "percentunit",
            (FAILED, "failed"),
            steps={0.05: "red"},
        ).max(1),
        lines(
            "Whole request",
            "From its head to the end of its answer.",
            "s",
            *((quantile(share, "request_duration_seconds"), name) for share, name in three),
            steps={30: "red"},
        ),
        lines(
            "Errors of the proxy's own",
            "Answers that the proxy made, by code; config/README.md says what each means.",
            "reqps",
            (f"{rate('request_errors_total', 'code')} > 0", "{{code}}"),
        ),
        lines(
            "Failures on the way to CardCash",
            "dns, refused, unreachable, connect_timeout, tls, proxy: the way there. The others: CardCash itself.",
            "ops",
            (f"{rate('upstream_errors_total', 'kind')} > 0", "{{kind}}"),
        ),
        lines(
            "CardCash's answer time",
            "From sending to the head of CardCash's answer. Its own time-outs are 50 to 90 s.",
            "s",
            *((quantile(share, "upstream_duration_seconds"), name) for share, name in three),
            steps={30: "red"},
        ),
        dashboard.Row("Routes"),
        routes(),
        lines(
            "Requests by route",
            "Templates of CardCash's paths; what is not known is other.",
            "reqps",
            (rate("requests_total", "route"), "{{route}}"),
            wide=True,
        ),
        lines(
            "p95 by route",
            "19 of 20 requests on the route are answered in this time.",
            "s",
            (f"{quantile(0.95, 'request_duration_seconds', 'route')} > 0", "{{route}}"),
            steps={30: "red"},
            wide=True,
        ),
        lines(
            "Outcome unknown",
            "Requests that may have been processed, and whose callers were told so: look before you order again.",
            "none",
            (counted("outcome_unknown_total", "route"), "{{route}}"),
            wide=True,
        ),
        lines(
            "In flight, and waiting for a session",
            "Requests being served, and those of them that wait for a renewal.",
            "none",
            (f"sum({of('requests_in_flight')})", "in flight"),
            (f"sum({of('session_waiters')})", "waiting"),
            wide=True,
        ),
        dashboard.Row("Session"),
        lines("Session ends in, by process", "0: none is held.", "s", (LIFE, "{{namespace}} {{instance}}")),
        lines(
            "Renewals",
            "By reason and result.",
            "none",
            (counted("session_renewals_total", "reason, result"), "{{reason}}: {{result}}"),
        ),
        lines(
            "How long renewals take",
            "Retries included.",
            "s",
            (quantile(0.95, "session_renewal_seconds"), "p95"),
            steps={10: "red"},
        ),
        lines(
            "Tokens in answers, requests sent once more",
            "Refreshes that came with ordinary answers; requests after a rejected token.",
            "none",
            (counted("session_harvests_total", "result"), "token {{result}}"),
            (counted("session_retries_total", "result"), "repeat {{result}}"),
        ),
        lines(
            "Refused, lost, alone",
            "1: CardCash refused it; the session is not the one in the store. Logins of callers that were lost.",
            "none",
            (f"max by (what) ({of('session_latched')})", "{{what}} refused"),
            (f"max({of('session_alone')})", "not the stored session"),
            (f"sum(increase({of('session_identity_lost_total')}{RATE}))", "logins lost"),
        ),
        lines(
            "Session store",
            "Uses by result, and 1 while it answers.",
            "none",
            (counted("store_operations_total", "operation, result"), "{{operation}} {{result}}"),
            (f"min({of('store_up')})", "up"),
            (f"sum(increase({of('store_reconnects_total')}{RATE}))", "reconnects"),
        ),
        dashboard.Row("Processes"),
        lines(
            "Workers",
            "Down: dead, or has told nothing of itself for 2.5 s.",
            "none",
            (f"sum by (state) ({of('workers')})", "{{state}}"),
        ),
        lines(
            "Connections to CardCash",
            "Active ones carry a request.",
            "none",
            (f"sum by (state) ({of('upstream_connections')})", "{{state}}"),
        ),
        lines(
            "Bodies kept",
            "So that a request can be sent again.",
            "bytes",
            (f"sum({of('replay_buffer_bytes')})", "kept"),
        ),
        lines(
            "Memory",
            "Resident; with several workers of all together.",
            "bytes",
            (of("process_resident_memory_bytes"), "{{namespace}} {{instance}}"),
        ),
        lines(
            "CPU",
            "1 is a core.",
            "none",
            (f"rate({of('process_cpu_seconds_total')}{RATE})", "{{namespace}} {{instance}}"),
        ),
        lines(
            "Descriptors",
            "The share of open files and connections that may be.",
            "percentunit",
            (f"{of('process_open_fds')} / {of('process_max_fds')}", "{{namespace}} {{instance}}"),
            steps={0.8: "red"},
        ).max(1),
    ]


def marks() -> list[tuple[dashboard.AnnotationQuery, dict[str, str]]]:
    """What is marked in all pictures, with what the SDK has no name for."""

    def mark(name: str, color: str, expression: str, title: str) -> tuple[dashboard.AnnotationQuery, dict[str, str]]:
        made = dashboard.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(color).expr(expression)
        return made, {"titleFormat": title, "step": "60s"}

    renewals = f"sum by (job, reason, result) (increase({of('session_renewals_total')}[2m])) > 0"
    starts = f"changes({of('process_start_time_seconds')}[2m]) > 0"
    return [
        mark("Renewals", "blue", renewals, "renewal ({{reason}}): {{result}}"),
        mark("Restarts", "orange", starts, "{{instance}} was started again"),
    ]


def built() -> str:
    """Return the dashboard as Grafana reads it."""
    made = dashboard.Dashboard("cardcash-proxy").uid("cardcash-proxy").tags(["cardcash"]).editable().refresh("30s")
    made = made.time("now-3h", "now").tooltip(model.DashboardCursorSync.CROSSHAIR).version(2)
    made = made.description("One CardCash session, and all who use it. config/README.md says what each metric means.")
    made = made.with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    made = made.with_variable(chooser("namespace", ""))
    made = made.with_variable(chooser("job", 'namespace=~"$namespace"'))
    made = made.with_variable(chooser("instance", 'namespace=~"$namespace",job=~"$job"'))
    for one in panels():
        made = made.with_row(one) if isinstance(one, dashboard.Row) else made.with_panel(one)
    for annotation, _ in marks():
        made = made.annotation(annotation)
    content = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for number_, panel in enumerate(content["panels"], 1):
        panel["id"] = number_
    for annotation, (_, more) in zip(content["annotations"]["list"], marks(), strict=True):
        annotation.update(more)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(built(), encoding="utf-8")
