"""The dashboard loads, and shows what it says; and how many series there can be."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard

from proxy.core.target import METHODS
from proxy.telemetry import labels
from proxy.telemetry.metrics import Metrics
from tests.house.pages import ROOT, prose, text_of

DASHBOARD: dict[str, Any] = json.loads(text_of("config/grafana/dashboard.json"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_what_its_program_makes_of_the_classes_of_grafana() -> None:
    built = runpy.run_path(str(ROOT / "config/grafana/dashboard.py"))["built"]
    assert built() == text_of("config/grafana/dashboard.json"), "run `make dashboard`"


def test_grafana_can_read_the_dashboard_back() -> None:
    register_default_plugins()
    read = dashboard.Dashboard.from_json(json.loads(text_of("config/grafana/dashboard.json")))
    assert read.panels is not None and len(read.panels) == len(DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_begins_with_the_big_numbers() -> None:
    first = [panel["title"] for panel in PANELS if panel["type"] == "stat"]
    assert first == ["Session ends in", "State", "Error rate", "p95", "In flight", "Latched"]
    assert [panel["title"] for panel in PANELS[: len(first)]] == first


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_every_panel_says_what_it_shows_and_follows_what_is_chosen(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 10
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${source}"
        for name, chosen in re.findall(r"\b((?:cardcash_proxy|process)_\w+)(\{[^}]*\})?", target["expr"]):
            assert all(f'{label}=~"${label}"' in chosen for label in ("namespace", "job", "instance")), name


def test_the_number_of_series_is_what_the_page_says() -> None:
    metrics = Metrics("1")

    def count() -> int:
        return sum(len(family.samples) for family in metrics.registry.collect())

    (least, most) = re.findall(r"([\d,]+) series", prose())[:2]
    # Four more are born when the parts of a proxy are bound to it.
    assert count() + 4 <= int(least.replace(",", "")) < count() + 100
    before = count()
    for route in labels.ROUTES:
        for method in (*METHODS, "other"):
            for status in range(100, 1000):
                metrics.answered(method, route, status, 0.0, None)
    assert count() - before <= int(most.replace(",", ""))
