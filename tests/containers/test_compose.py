"""The compose files: valid by their specification, and every container's command run by hand, in networks of their own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.sandbox import Node, Sandbox, missing, until
from tests.house.pages import ROOT, text_of

Manifest = dict[str, Any]

FILES = ("docker-compose.yml", "docker-compose.fleet.yml")


def services_of(file: str) -> dict[str, Manifest]:
    """The services of a file, with those that they extend."""
    found = {}
    for name, service in yaml.safe_load(text_of(file))["services"].items():
        extends = service.pop("extends", None)
        found[name] = (services_of(extends["file"])[extends["service"]] | service) if extends else service
    return found


SERVICES = {file: services_of(file) for file in FILES}
BOTH = [(file, name) for file in FILES for name in SERVICES[file]]


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_valid_by_the_compose_specification(file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("file", "name"), BOTH)
def test_what_is_built_here_is_never_pulled(file: str, name: str) -> None:
    service = SERVICES[file][name]
    assert (service["image"] == "cardcash-proxy") == ("build" in service)
    assert service["image"] == "cardcash-proxy" or ":" in service["image"]  # a version of somebody else's


@pytest.mark.parametrize(("file", "name"), BOTH)
def test_a_service_is_locked_down_and_published_on_loopback_only(file: str, name: str) -> None:
    service = SERVICES[file][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize(("file", "name"), BOTH)
def test_what_is_mounted_and_named_is_there(file: str, name: str) -> None:
    compose = yaml.safe_load(text_of(file))
    for volume in SERVICES[file][name].get("volumes", []):
        source = volume.partition(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
    assert set(SERVICES[file][name].get("depends_on", {})) <= set(SERVICES[file])


@pytest.mark.parametrize("file", FILES)
def test_no_port_of_this_machine_is_published_twice(file: str) -> None:
    ports = [port.rpartition(":")[0] for service in SERVICES[file].values() for port in service.get("ports", [])]
    assert len(set(ports)) == len(ports)


def test_grafana_shows_the_dashboard_to_whoever_opens_it() -> None:
    """Its pages on provisioning and configuration say how; Grafana itself cannot be run here."""
    grafana = SERVICES[FILES[0]]["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    (provider,) = yaml.safe_load(text_of("config/grafana/provisioning/dashboards/cardcash-proxy.yml"))["providers"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert mounts[home] == "./config/grafana/dashboard.json"
    assert str(Path(home).parent) == provider["options"]["path"]
    assert mounts["/etc/grafana/provisioning"] == "./config/grafana/provisioning"
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    (source,) = yaml.safe_load(text_of("config/grafana/provisioning/datasources/prometheus.yml"))["datasources"]
    assert source["isDefault"] and source["type"] == "prometheus"
    url = urllib.parse.urlsplit(source["url"])
    assert url.hostname in SERVICES[FILES[0]]
    assert f"127.0.0.1:{url.port}:{url.port}" in SERVICES[FILES[0]][url.hostname]["ports"]


# -- run by hand


class Composed:
    """All services of a file but Grafana, each in a sandbox of its own, with its name and its command."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, file: str) -> None:
        (subnet,) = yaml.safe_load(text_of(file))["networks"]["cardcash"]["ipam"]["config"]
        network = ipaddress.ip_network(subnet["subnet"])
        self.services = {name: service for name, service in SERVICES[file].items() if name != "grafana"}
        self.addresses = {name: str(network[number]) for number, name in enumerate(self.services, 2)}
        #: Where callers on this machine come from.
        self.gateway = stack.enter_context(contextlib.closing(Node([f"{network[1]}/{network.prefixlen}"])))
        self.sandboxes = {
            name: stack.enter_context(
                Sandbox(
                    folder / name,
                    [f"{self.addresses[name]}/{network.prefixlen}"],
                    node=self.gateway,
                    hosts=self.addresses,
                    shell=_mounted(service),
                )
            )
            for name, service in self.services.items()
        }
        waiting = dict(self.services)
        while waiting:
            for name, service in list(waiting.items()):
                if not set(service.get("depends_on", {})) & set(waiting):
                    for other in service.get("depends_on", {}):
                        until(partial(self.healthy, other), self.sandboxes[other].log)
                    self._start(name, waiting.pop(name))

    def _start(self, name: str, service: Manifest) -> None:
        command = service.get("command", ["serve"])
        if service["image"] == "cardcash-proxy":
            command = [*service.get("entrypoint", ["cardcash-proxy"]), *command]
        elif service["image"].startswith("prom/"):
            # The volume of its data is a folder at the root of its image.
            command = ["prometheus", *(word.replace("=/prometheus", "=/run/prometheus") for word in command)]
        self.sandboxes[name].start(command, service.get("environment", {}), "log")

    def start_again(self, name: str) -> None:
        """Start what has ended, as `restart: unless-stopped` does."""
        self._start(name, self.services[name])

    def healthy(self, name: str) -> bool:
        """Run the health check of a service, or the image's."""
        service = self.services[name]
        words = service.get("healthcheck", {}).get("test", ["CMD", "cardcash-proxy", "health"])
        return self.sandboxes[name].run(words[1:], service.get("environment", {}))[0] == 0

    def exec(self, name: str, *command: str) -> tuple[int, str]:
        return self.sandboxes[name].run(command, self.services[name].get("environment", {}))

    def published(self, port: int, path: str) -> tuple[int, bytes]:
        """Ask what is published at this port of this machine, as a browser there does."""
        for name, service in self.services.items():
            for published in service.get("ports", []):
                _, outside, inside = published.split(":")
                if int(outside) == port:
                    answer = self.gateway.ask("GET", self.addresses[name], int(inside), path, Host=f"127.0.0.1:{port}")
                    return answer.status, answer.body
        raise AssertionError(f"nobody publishes {port}")

    def prometheus(self, query: str) -> list[Any]:
        status, body = self.published(9090, f"/api/v1/query?query={urllib.parse.quote(query)}")
        if status == 503:
            return []  # it is starting
        found: list[Any] = json.loads(body)["data"]["result"]
        return found

    def simulator(self) -> Manifest:
        answer = self.gateway.ask("GET", self.addresses["simulator"], 8090, "/_simulator/counters")
        counts: Manifest = json.loads(answer.body)
        return counts


def _mounted(service: Manifest) -> str:
    """Put what a service mounts where it mounts it."""
    words = ["mkdir -m 777 /run/prometheus"]
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        if target == "/etc/prometheus":
            words.append(f"mount --bind {ROOT / source} {target}")
        elif source.startswith("."):
            words.append(f"cp {ROOT / source} {target}")
        elif target.startswith("/var/lib/cardcash-proxy"):
            words += ["mount -t tmpfs -o mode=755 volume /var/lib", f"mkdir -m 1777 {target}"]
    return " && ".join(words)


WHY = missing() or next(
    (f"{tool} is not installed" for tool in ("prometheus", "redis-server") if not shutil.which(tool)), ""
)
by_hand = pytest.mark.skipif(bool(WHY), reason=WHY)


def _composed(folders: pytest.TempPathFactory, file: str) -> Iterator[Composed]:
    with contextlib.ExitStack() as stack:
        yield Composed(stack, folders.mktemp("composed"), file)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    yield from _composed(tmp_path_factory, "docker-compose.yml")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    yield from _composed(tmp_path_factory, "docker-compose.fleet.yml")


@pytest.fixture
def composed(request: pytest.FixtureRequest, which: str) -> Composed:
    found: Composed = request.getfixturevalue(which)
    return found


either = pytest.mark.parametrize("which", ["compose", "fleet"])


# First, before the traffic's own revocations begin after a minute.
@by_hand
def test_two_proxies_are_one_client_to_cardcash(fleet: Composed) -> None:
    for name, port in (("proxy-a", 8080), ("proxy-b", 8082)):
        until(partial(_answers, fleet, port), fleet.sandboxes[name].log)
    tokens = fleet.simulator()["tokens"]
    assert (tokens["sessions_created"], tokens["logins"]) == (1, 1)
    fleet.gateway.ask("POST", fleet.addresses["simulator"], 8090, "/_simulator/revoke", body=b"{}")
    for port in (8080, 8082):
        assert fleet.published(port, "/customers")[0] == 200
    tokens = fleet.simulator()["tokens"]
    assert (tokens["sessions_created"], tokens["logins"]) == (2, 2)


def _answers(composed: Composed, port: int) -> bool:
    return composed.published(port, "/customers")[0] == 200


@by_hand
@either
def test_the_traffic_can_be_seen_in_prometheus(composed: Composed) -> None:
    proxies = {f"{name}:8081" for name in composed.services if name.startswith("proxy")}

    def seen() -> bool:
        answered = composed.prometheus('sum by (instance) (cardcash_proxy_requests_total{status="200"}) > 0')
        return {each["metric"]["instance"] for each in answered} == proxies

    until(seen, lambda: {name: sandbox.log() for name, sandbox in composed.sandboxes.items()})
    assert composed.prometheus("up == 0") == []
    refused = composed.prometheus("cardcash_proxy_request_errors_total > 0")
    assert refused == [], "callers are refused"


@by_hand
@either
def test_prometheus_has_the_alerts(composed: Composed) -> None:
    until(lambda: composed.published(9090, "/-/ready")[0] == 200, composed.sandboxes["prometheus"].log)
    groups = json.loads(composed.published(9090, "/api/v1/rules")[1])["data"]["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"}
    expected = yaml.safe_load(text_of("config/prometheus/alerts.yml"))["groups"]
    assert loaded == {rule["alert"] for group in expected for rule in group["rules"] if "alert" in rule}


@by_hand
def test_a_browser_on_this_machine_reaches_the_proxy_and_its_status(compose: Composed) -> None:
    until(lambda: compose.healthy("proxy"), compose.sandboxes["proxy"].log)
    assert compose.published(8080, "/customers")[0] == 200
    assert compose.published(8081, "/")[0] == 200


@by_hand
def test_session_renew_is_run_by_exec(compose: Composed) -> None:
    until(lambda: compose.healthy("proxy"), compose.sandboxes["proxy"].log)
    code, said = compose.exec("proxy", "cardcash-proxy", "session", "renew")
    assert code == 0, said
    assert compose.exec("proxy", "cardcash-proxy", "session", "status")[0] == 0


@by_hand
def test_a_proxy_that_is_started_again_goes_on_with_its_session(compose: Composed) -> None:
    until(partial(_answers, compose, 8080), compose.sandboxes["proxy"].log)
    assert compose.exec("proxy", "cardcash-proxy", "shutdown")[0] == 0
    until(lambda: not compose.healthy("proxy"), compose.sandboxes["proxy"].log)
    compose.start_again("proxy")
    until(lambda: compose.healthy("proxy"), compose.sandboxes["proxy"].log)
    # It says so a moment after its admin port answers.
    until(lambda: '"source":"store"' in compose.sandboxes["proxy"].log(), compose.sandboxes["proxy"].log)
    assert compose.sandboxes["proxy"].log().count('"reason":"start","result":"ok"') == 1
