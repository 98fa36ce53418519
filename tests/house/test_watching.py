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
from tests.house.pages import ROOT, table, text_of, ticked

FOLDER = ROOT / "config/prometheus"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(text_of("config/prometheus/alerts.yml"))["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = json.loads(text_of("config/grafana/dashboard.json"))["panels"]
EXPRESSIONS = {
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
    **{f"panel {panel['title']} {t['refId']}": t["expr"] for panel in PANELS for t in panel["targets"]},
}
# What the tables of config/README.md say is held against the code by test_readme_tables.py.
LABELS = {ticked(name)[0]: set(ticked(labels)) for name, _, labels, _ in table("metric")}
CODES = {ticked(code)[0] for _, code, _ in table("status")}
VALUES = {
    "code": CODES,
    "result": {result for name, _, _, meaning in table("metric") if "session_" in name for result in ticked(meaning)},
    "route": set(KNOWN_ROUTES),
    "method": {"POST", "PUT"},
    "status": {"499", "500", "502", "504"},
    "state": {"up", "down", "idle", "active"},
}


def _selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """List the metrics of an expression with their label patterns."""
    found = re.findall(r"\b(cardcash_proxy_\w+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', labels))) for name, labels in found]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_metrics_and_labels_exist(where: str) -> None:
    for name, labels in _selectors(EXPRESSIONS[where]):
        family = name.removesuffix("_bucket")
        assert family in LABELS
        assert set(labels) <= LABELS[family]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_label_values_exist(where: str) -> None:
    for _, labels in _selectors(EXPRESSIONS[where]):
        for label, pattern in labels.items():
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


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "action"}


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
    # Alerts name the job.
    assert {match for rule in ALERTS for match in re.findall(r'job="([^"]+)"', rule["expr"])} == {job["job_name"]}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")], ids=" ".join
)
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
