"""Each alert, provoked on real proxies and seen in a real Prometheus; and its silence in the plights beside it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import uvloop

from tests.house.fleets import PROVOKED, Seen, watched
from tests.house.pages import text_of
from tests.house.prometheus import INSTALLED, MINUTE, WHY_NOT

pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason=WHY_NOT),
    pytest.mark.timeout(240),
]
DASHBOARD: dict[str, Any] = json.loads(text_of("config/grafana/dashboard.json"))
WINDOW = f"[{5 * MINUTE}ms]"
#: What Grafana puts in the place of its variables, when all is chosen.
CHOSEN = {"$namespace": ".*", "$job": ".*", "$instance": ".*", "[$__rate_interval]": WINDOW, "[2m]": WINDOW}


def chosen(expression: str) -> str:
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


PANELS = {
    f"{panel['title']} {target['refId']}": chosen(target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
} | {f"mark {mark['name']}": chosen(mark["expr"]) for mark in DASHBOARD["annotations"]["list"]}
CHOICES: dict[str, str] = {}
for _variable in DASHBOARD["templating"]["list"]:
    if _variable["type"] == "query":
        _found = re.fullmatch(r"label_values\((.*), (\w+)\)", _variable["query"]["query"])
        assert _found and _found[2] == _variable["name"]
        CHOICES[_found[2]] = chosen(_found[1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(watched(tmp_path_factory.mktemp("prometheus"), PANELS, CHOICES))


@pytest.mark.parametrize("alert", PROVOKED)
def test_every_alert_fires_for_what_it_is_for(seen: Seen, alert: str) -> None:
    assert (alert, PROVOKED[alert]) in seen.alerts


#: Fleets, with all that may be told of them.
TOLD: dict[str, set[str]] = {
    # Mistakes of callers, a stranger, a revoked token; an order that was read and lost, a list of orders nobody waited for.
    "healthy": set(),
    # Another thing is down.
    "another": set(),
    # No session, and its cause is told; the store has to do with neither.
    "appid": {"CardcashRefusedCredentials", "CardcashStoreDown"},
    # No session with the login, and anonymous calls that work.
    "refused": {"CardcashRefusedCredentials"},
    # No order was ever sent; the session is held.
    "unreachable": {"CardcashRequestsFail", "CardcashUpstreamErrors"},
    # Most requests fail, and the cause is told.
    "nosession": {"CardcashNoSession", "CardcashUpstreamErrors"},
    # It is slow, but it answers.
    "slow": {"CardcashUpstreamSlow", "CardcashOverloaded", "CardcashRequestsFail"},
    "sundry": {alert for alert, fleet in PROVOKED.items() if fleet == "sundry"},
    "failing": {"CardcashRenewalsFailing"},
    "restarts": {"CardcashProxyRestarts", "CardcashProxyDown"},
    "workers": {"CardcashWorkerDown"},
    "down": {"CardcashProxyDown"},
}


@pytest.mark.parametrize("fleet", TOLD)
def test_nothing_else_is_told_of_a_fleet(seen: Seen, fleet: str) -> None:
    # Most proxies share one process with their callers: on a machine that is busy enough all of them miss a scrape.
    stalls = set() if fleet == "another" else {"CardcashProxyDown"}
    assert {alert for alert, job in seen.ever if job == fleet} <= TOLD[fleet] | stalls


@pytest.mark.parametrize("alert", PROVOKED)
def test_a_fleet_has_one_alert_for_one_cause_and_its_namespace(seen: Seen, alert: str) -> None:
    (one,) = seen.alerts[alert, PROVOKED[alert]].values()
    assert one["labels"]["namespace"] == f"{PROVOKED[alert]}-ns"


@pytest.mark.parametrize("alert", PROVOKED)
def test_every_annotation_can_be_read(seen: Seen, alert: str) -> None:
    (one,) = seen.alerts[alert, PROVOKED[alert]].values()
    assert one["annotations"]["runbook_url"] == f"config/README.md#{alert.lower()}"
    for name, text in one["annotations"].items():
        # CardCash itself answers 5xx there, so there are no codes of the proxy's own.
        assert text.strip() or (alert, name) == ("CardcashErrorRate", "codes"), name
        assert not re.search(r"error expanding|<no value>|\{\{|NaN|POD", text), f"{name}: {text}"


@pytest.mark.parametrize("alert", PROVOKED)
def test_what_to_do_names_a_pod_of_the_fleet(seen: Seen, alert: str) -> None:
    (one,) = seen.alerts[alert, PROVOKED[alert]].values()
    fleet = PROVOKED[alert]
    for namespace, pod in re.findall(r"kubectl (?:exec|logs) -n (\S+) (\S+) ", one["annotations"]["action"]):
        assert namespace == f"{fleet}-ns" and re.fullmatch(rf"{fleet}-\d+", pod)


def test_both_pods_with_the_refused_login_are_named(seen: Seen) -> None:
    (one,) = seen.alerts["CardcashRefusedCredentials", "refused"].values()
    assert len(set(one["annotations"]["where"].split())) == 2


def test_what_the_alert_on_a_refused_login_says_to_run_ends_it(seen: Seen) -> None:
    assert seen.renewal[0] == 0, seen.renewal[1]
    assert seen.over


def test_no_share_of_failed_requests_is_above_the_whole(seen: Seen) -> None:
    assert 0.5 < seen.highest <= 1


@pytest.mark.parametrize("panel", PANELS)
def test_every_expression_of_the_dashboard_returns_data(seen: Seen, panel: str) -> None:
    assert seen.panels[panel] > 0


@pytest.mark.parametrize("variable", CHOICES)
def test_every_variable_of_the_dashboard_has_choices(seen: Seen, variable: str) -> None:
    assert len(seen.choices[variable]) > 8
