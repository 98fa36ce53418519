"""A pod of config/kubernetes as its kubelet would run it: logins, restarts and answers are counted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.kubelet import SIMULATOR, Callers, Kubelet, pod_of, simulated
from tests.containers.kustomize import build
from tests.containers.sandbox import Sandbox, missing, until
from tests.house.pages import ROOT

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

TREE = ROOT / "config/kubernetes"
GOOD = {"app-id": "demo-app-id\n", "password": "demo-password\n"}
WRONG = {**GOOD, "password": "not-the-password\n"}
#: Of `base/`, as it is added to any Deployment; `example/` only changes the account.
SIDECAR = pod_of(build(TREE / "example"))
ACCOUNT = {"CARDCASH_UPSTREAM__ORIGIN": "http://127.0.0.1:8090", "CARDCASH_LOGIN__EMAIL": "partner@example.com"}

Start = Callable[..., Kubelet]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The place of a pod, with a simulator inside it for CardCash."""
    with Sandbox(tmp_path_factory.mktemp("pod")) as sandbox:
        simulated(sandbox)
        yield sandbox


@pytest.fixture
def start(pod: Sandbox) -> Iterator[Start]:
    """Start the pod's proxy on fresh volumes, and count anew."""
    pod.within.ask("POST", *SIMULATOR, "/_simulator/reset-counters", body=b"{}")
    with contextlib.ExitStack() as stack:
        yield lambda secret: stack.enter_context(contextlib.closing(Kubelet(pod, SIDECAR, secret, more=ACCOUNT)))


def is_ready(kubelet: Kubelet) -> None:
    until(lambda: kubelet.ready, lambda: f"not ready: {kubelet.history} {kubelet.log()}")


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_pod_is_ready_and_its_app_is_served_by_loopback_alone(pod: Sandbox, family: int) -> None:
    with contextlib.closing(Kubelet(pod, SIDECAR, GOOD, more=ACCOUNT, address=pod.addresses[family])) as kubelet:
        is_ready(kubelet)
        _served_by_loopback_alone(kubelet)


def test_a_pod_is_ready_where_there_is_no_ipv6(tmp_path: Path) -> None:
    off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    with Sandbox(tmp_path, ["10.42.0.5/24"], shell=off) as sandbox:
        simulated(sandbox)
        with contextlib.closing(Kubelet(sandbox, SIDECAR, GOOD, more=ACCOUNT)) as kubelet:
            is_ready(kubelet)
            _served_by_loopback_alone(kubelet)


def _served_by_loopback_alone(kubelet: Kubelet) -> None:
    assert kubelet.app("GET", "/v3/customers").status == 200
    for address in kubelet.sandbox.addresses:
        assert kubelet.sandbox.node.ask("GET", address, 8081, "/metrics").status == 200
        assert kubelet.sandbox.node.ask("POST", address, 8081, "/session/renew").status == 403
        with pytest.raises(ConnectionRefusedError):
            kubelet.sandbox.node.ask("GET", address, 8080, "/v3/carts")
    assert (kubelet.restarts, kubelet.history) == (0, ["ready"])


def test_a_wrong_password_costs_one_login_however_often_the_container_restarts(start: Start) -> None:
    kubelet = start(WRONG)
    until(lambda: kubelet.status()["refusals"], kubelet.log)
    for _ in range(2):
        kubelet.for_probes(8)
        kubelet.kill()
    kubelet.for_probes(8)
    assert kubelet.restarts == 2, kubelet.history  # none by the kubelet's own judgement
    assert not kubelet.ready
    counts = kubelet.cardcash()
    assert counts["logins_failed"] == 1
    assert counts["logins"] == counts["logins_locked"] == 0
    assert kubelet.app("GET", "/v3/merchants/buy").status == 200  # anonymous calls work


def test_the_right_password_makes_the_pod_ready_without_a_restart(start: Start) -> None:
    kubelet = start(WRONG)
    until(lambda: kubelet.status()["refusals"], kubelet.log)
    kubelet.secrets["/run/secrets/cardcash"].write(GOOD)
    is_ready(kubelet)
    assert kubelet.restarts == 0
    assert kubelet.cardcash()["logins_failed"] == 1


def test_a_wrong_password_rotated_in_leaves_callers_served_and_the_pod_in_its_service(start: Start) -> None:
    kubelet = start(GOOD)
    is_ready(kubelet)
    with Callers(lambda: kubelet.app("GET", "/v3/merchants/buy"), lambda answer: answer.status == 200) as callers:
        kubelet.secrets["/run/secrets/cardcash"].write(WRONG)
        until(lambda: kubelet.status()["refusals"] or kubelet.status()["session"]["refused"], kubelet.log)
        kubelet.for_probes(30)
    assert callers.wrong == []
    assert callers.answered > 20
    assert (kubelet.restarts, kubelet.history) == (0, ["ready"])
    assert kubelet.cardcash()["logins_failed"] == 1
    kubelet.kill()
    assert kubelet.cardcash()["logins_failed"] == 1
    assert kubelet.app("GET", "/v3/merchants/buy").status == 200


def test_a_restarted_container_goes_on_with_its_session(start: Start) -> None:
    kubelet = start(GOOD)
    is_ready(kubelet)
    kubelet.kill()
    is_ready(kubelet)
    counts = kubelet.cardcash()
    assert (counts["sessions_created"], counts["logins"]) == (1, 1)
    assert kubelet.restarts == 1


def test_a_cardcash_that_is_down_restarts_nothing_and_is_waited_for(tmp_path: Path) -> None:
    with (
        Sandbox(tmp_path, ["10.42.0.5/24"]) as sandbox,
        contextlib.closing(Kubelet(sandbox, SIDECAR, GOOD, more=ACCOUNT)) as kubelet,
    ):
        until(lambda: kubelet.events("session_renewal"), kubelet.log)
        kubelet.for_probes(6)
        simulated(sandbox)
        until(lambda: kubelet.app("GET", "/v3/customers").status == 200, kubelet.log)
        is_ready(kubelet)
        assert kubelet.restarts == 0, kubelet.history


def test_session_renew_is_run_by_exec(start: Start) -> None:
    kubelet = start(GOOD)
    is_ready(kubelet)
    before = kubelet.cardcash()["sessions_created"]
    code, said = kubelet.exec("cardcash-proxy", "session", "renew")
    assert code == 0, said
    assert kubelet.cardcash()["sessions_created"] == before + 1
    code, said = kubelet.exec("cardcash-proxy", "session", "status")
    assert code == 0
    assert "fresh" in said
    assert kubelet.exec("cardcash-proxy", "health")[0] == 0
    assert json.loads(kubelet.app("GET", "/v3/customers").body)


JOB = pod_of(build(TREE / "job"), "Job")


def script_of_app(command: str) -> list[str]:
    """What the app's container runs, with a command in place of the app's own."""
    (app,) = [each for each in JOB["containers"] if each["name"] == "app"]
    assert app["args"][0].count(" nightly-orders\n") == 1
    return [*app["command"], app["args"][0].replace(" nightly-orders\n", f" {command}\n")]


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("(exit 3)", 3)])
def test_a_job_waits_for_the_proxy_and_stops_it_when_its_work_is_done(pod: Sandbox, command: str, code: int) -> None:
    with contextlib.closing(Kubelet(pod, JOB, GOOD)) as kubelet:
        hook = kubelet.container["lifecycle"]["postStart"]["exec"]["command"]
        assert kubelet.exec(*hook) == (0, "ready\n")
        assert kubelet.app("GET", "/v3/customers").status == 200
        assert pod.run(script_of_app(command), {})[0] == code
        assert kubelet.process.wait(20) == 0


def test_a_job_whose_login_is_refused_never_starts_its_app(pod: Sandbox) -> None:
    """A kubelet kills a container whose hook fails, and starts the next one all the same, at once."""
    pod.within.ask("POST", *SIMULATOR, "/_simulator/reset-counters", body=b"{}")
    with contextlib.closing(Kubelet(pod, JOB, WRONG)) as kubelet:
        hook = kubelet.container["lifecycle"]["postStart"]["exec"]["command"]
        until(lambda: kubelet.cardcash()["logins_failed"] == 1, kubelet.log)
        code, said = kubelet.exec(*hook[:-1], "3s")
        assert code == 1
        assert "login refused" in said
        code, said = pod.run(script_of_app("echo started"), {})
        assert code != 0
        assert "started" not in said
        assert kubelet.process.wait(20) == 0
        code, said = pod.run(script_of_app("echo started"), {})  # the proxy has ended
        assert code != 0
        assert "started" not in said
        assert kubelet.cardcash()["logins_failed"] == 1
