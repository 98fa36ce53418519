"""Alerts and the dashboard speak of metrics, labels and codes that exist, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from proxy.core.route_names import KNOWN_ROUTES
from proxy.settings import load_settings
from tests.house.conftest import Playground
from tests.house.pages import ROOT, table, text_of, ticked

FOLDER = ROOT / "config/prometheus"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load(text_of("config/prometheus/alerts.yml"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
DASHBOARD: dict[str, Any] = json.loads(text_of("config/grafana/dashboard.json"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
    **{f"panel {panel['title']} {t['refId']}": t["expr"] for panel in PANELS for t in panel["targets"]},
    **{f"mark {mark['name']}": mark["expr"] for mark in DASHBOARD["annotations"]["list"]},
}
#: What a target has beside the labels of the metric itself.
OF_TARGETS = {"namespace", "job", "instance"}
# What the tables of config/README.md say is held against the code by test_readme_tables.py.
LABELS = {ticked(name)[0]: set(ticked(labels)) for name, _, labels, _ in table("metric")}
CODES = {ticked(code)[0] for _, code, _ in table("status")}
VALUES = {
    "code": CODES,
    "result": {result for name, _, _, meaning in table("metric") if "session_" in name for result in ticked(meaning)},
    "route": set(KNOWN_ROUTES),
    "method": {"POST", "PUT", "GET", "HEAD"},
    "status": {"200", "499", "500", "502", "504"},
    "state": {"up", "down", "idle", "active"},
    "what": {"app_id", "login"},
    "kind": {kind for name, _, _, meaning in table("metric") if "upstream_errors" in name for kind in ticked(meaning)},
}


def _selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """List the metrics of an expression with their label patterns."""
    found = re.findall(r"\b(cardcash_proxy_\w+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)(?:=~?|!=|!~)"([^"]*)"', labels))) for name, labels in found]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_metrics_and_labels_exist(where: str) -> None:
    for name, labels in _selectors(EXPRESSIONS[where]):
        family = name.removesuffix("_bucket")
        assert family in LABELS
        assert set(labels) <= LABELS[family] | OF_TARGETS


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_label_values_exist(where: str) -> None:
    for _, labels in _selectors(EXPRESSIONS[where]):
        for label, pattern in labels.items():
            if label in OF_TARGETS:
                continue
            for choice in pattern.split("|"):
                assert any(re.fullmatch(choice, value) for value in VALUES[label]), f"{label}: {choice}"


def test_alerts_exist_for_what_the_operator_must_know() -> None:
    watched = {name for rule in ALERTS for name, _ in _selectors(rule["expr"])}
    assert {
        "cardcash_proxy_session_latched",
        "cardcash_proxy_session_renewals_total",
        "cardcash_proxy_session_expiry_timestamp_seconds",
        "cardcash_proxy_request_errors_total",
        "cardcash_proxy_upstream_errors_total",
    } <= watched


PER_ALERT = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))


@PER_ALERT
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "action", "runbook_url"} <= set(rule["annotations"])
    assert set(rule["annotations"]) <= {"summary", "action", "runbook_url", "where", "codes", "kinds"}


@PER_ALERT
def test_every_runbook_link_leads_to_the_row_of_its_alert(rule: dict[str, Any]) -> None:
    anchor = rule["annotations"]["runbook_url"].partition("#")[2]
    (row,) = [row for row in table("alert") if ticked(row[0]) == [rule["alert"]]]
    assert f'<a id="{anchor}"></a>' in row[0]


@PER_ALERT
def test_no_alert_names_a_job_and_all_keep_the_namespace(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    assert not re.search(r"\b(job|instance|namespace|pod)[=!~]", expression)
    for clause, labels in re.findall(r"\b(?:sum|count|max|min) (by|without) \(([^)]*)\)", expression):
        names = {name.strip() for name in labels.split(",")}
        assert {"namespace", "job"} <= names if clause == "by" else not names & {"namespace", "job", "pod", "instance"}


#: What stands in a command for the service of compose, by the names of targets.
_SERVICE = re.compile(
    r"\{\{ with \$one \}\}[^`]*\{\{ else \}\}proxy\{\{ end \}\}|\{\{ reReplaceAll [^`]* \$labels.instance \}\}"
)


def _commands() -> set[tuple[str, str]]:
    """What alerts say to run: what runs it there, and the command of ours, if it is one."""
    found = set()
    for rule in ALERTS:
        action = _SERVICE.sub("proxy", rule["annotations"]["action"])
        for command in re.findall(r"`((?:kubectl|docker|cardcash-proxy) [^`]*)`", action):
            before, ours, after = command.rpartition("cardcash-proxy ")
            is_ours = " exec " in command or command.startswith("cardcash-proxy")
            found.add((before.removesuffix(" -- "), ours + after) if is_ours else (command, ""))
    return found


def test_what_alerts_say_to_run_is_run_where_the_proxy_is() -> None:
    services = yaml.safe_load(text_of("docker-compose.yml"))["services"]
    compose = {before.split()[-1] for before, _ in _commands() if before.startswith("docker")}
    assert compose == {"proxy"} <= set(services)
    containers = {found for words, _ in _commands() for found in re.findall(r"kubectl .* -c (\S+)", words)}
    manifest = yaml.safe_load(text_of("config/kubernetes/shared/deployment.yaml"))
    assert containers == {one["name"] for one in manifest["spec"]["template"]["spec"]["containers"]}


@pytest.mark.parametrize(
    ("prometheus", "compose"),
    [("prometheus.yml", "docker-compose.yml"), ("fleet.yml", "docker-compose.fleet.yml")],
)
def test_targets_in_compose_are_named_as_their_services(prometheus: str, compose: str) -> None:
    (job,) = yaml.safe_load(text_of(f"config/prometheus/{prometheus}"))["scrape_configs"]
    targets = {target.partition(":")[0] for group in job["static_configs"] for target in group["targets"]}
    assert targets <= set(yaml.safe_load(text_of(compose))["services"])


def test_what_alerts_say_to_run_works(playground: Playground) -> None:
    environment = playground.environment() | {
        "CARDCASH_APP_ID": "demo-app-id",
        "CARDCASH_UPSTREAM__ORIGIN": f"http://{playground.simulator}",
    }
    commands = {ours for _, ours in _commands() if ours}
    assert commands == {
        "cardcash-proxy session renew",
        "cardcash-proxy session status",
        "cardcash-proxy doctor --no-login",
    }
    for command in commands:
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_of_alerts_names_each_with_its_severity_and_what_to_do() -> None:
    rows = table("alert")
    assert {ticked(row[0])[0]: row[1] for row in rows} == {rule["alert"]: rule["labels"]["severity"] for rule in ALERTS}
    assert [row[0] for row in rows if len(row) != 4 or min(len(cell) for cell in row[2:]) < 15] == []


def test_prometheus_scrapes_the_admin_port_of_the_proxy_in_compose() -> None:
    config = yaml.safe_load(text_of("config/prometheus/prometheus.yml"))
    (job,) = config["scrape_configs"]
    environment = yaml.safe_load(text_of("docker-compose.yml"))["services"]["proxy"]["environment"]
    port = load_settings(environ=environment).admin.listen[0].port
    assert job["static_configs"] == [{"targets": [f"proxy:{port}"]}]
    assert all((FOLDER / name).exists() for name in config["rule_files"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml", "fleet.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
