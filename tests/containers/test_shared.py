"""A replica of config/kubernetes/shared as its kubelet would run it, with its Redis over TLS."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator

import pytest
import trustme

from tests.containers.kubelet import SIMULATOR, Kubelet, pod_of, simulated
from tests.containers.kustomize import build
from tests.containers.sandbox import Sandbox, missing, until
from tests.house.pages import ROOT

WHY = missing() or ("" if shutil.which("redis-server") else "redis-server is not installed")
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)

REPLICA = pod_of(build(ROOT / "config/kubernetes/shared"))
REDIS = "redis.redis.svc"
SERVICE = ("10.42.0.5", 8080)


class Place:
    """Where replicas run one after the other, and what their Secret has in it."""

    def __init__(self, sandbox: Sandbox, secret: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.secret = secret

    def replica(self, **secret: str) -> contextlib.closing[Kubelet]:
        """A new pod: nothing of the one before is left in its volumes."""
        self.sandbox.within.ask("POST", *SIMULATOR, "/_simulator/reset-counters", body=b"{}")
        return contextlib.closing(Kubelet(self.sandbox, REPLICA, {**self.secret, **secret}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("shared")
    authority = trustme.CA()
    authority.issue_cert(REDIS).private_key_and_cert_chain_pem.write_to_path(folder / "redis.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    secret = {
        "app-id": "demo-app-id\n",
        "password": "demo-password\n",
        "store-url": f"rediss://:a-password@{REDIS}:6379\n",
        "store-ca.crt": (folder / "ca.pem").read_text(),
    }
    with Sandbox(folder / "pod", ["10.42.0.5/24"], hosts={REDIS: "127.0.0.1"}) as sandbox:
        sandbox.shell(
            f"mkdir -m 755 /mnt/redis && cp {folder}/redis.pem {folder}/ca.pem /mnt/redis && chmod 644 /mnt/redis/*"
        )
        tls = [
            "--port",
            "0",
            "--tls-port",
            "6379",
            "--tls-auth-clients",
            "no",
            "--tls-ca-cert-file",
            "/mnt/redis/ca.pem",
        ]
        pem = ["--tls-cert-file", "/mnt/redis/redis.pem", "--tls-key-file", "/mnt/redis/redis.pem"]
        sandbox.start(["redis-server", *tls, *pem, "--save", "", "--requirepass", "a-password"], {}, "redis.log")
        simulated(sandbox)
        yield Place(sandbox, secret)


def test_callers_reach_it_by_every_spelling_of_its_service_and_by_no_other(place: Place) -> None:
    with place.replica() as kubelet:
        until(lambda: kubelet.ready, kubelet.log)
        for host in ("cardcash", "cardcash.shop", "cardcash.shop.svc", "cardcash.shop.svc.cluster.local"):
            answer = place.sandbox.node.ask("GET", *SERVICE, "/v3/customers", Host=f"{host}:8080")
            assert (host, answer.status) == (host, 200)
        assert place.sandbox.node.ask("GET", *SERVICE, "/v3/customers", Host="evil.example").status == 421
        assert kubelet.status()["session"]["identity"]


def test_it_serves_for_a_while_after_it_was_told_to_stop_and_is_not_ready_any_more(place: Place) -> None:
    with place.replica() as kubelet:
        until(lambda: kubelet.ready, kubelet.log)
        kubelet.process.send_signal(signal.SIGTERM)
        until(lambda: not kubelet.ready, kubelet.log)
        assert place.sandbox.node.ask("GET", *SERVICE, "/v3/carts", Host="cardcash").status == 200
        assert kubelet.process.poll() is None


def test_a_wrong_password_costs_one_login_however_many_pods_follow_each_other(place: Place) -> None:
    failed = 0
    # A session that is held there already would be taken over, and no login tried.
    empty = f"{place.secret['store-url'].strip()}?prefix=empty:\n"
    for _ in range(2):
        with place.replica(**{"password": "not-the-password\n", "store-url": empty}) as kubelet:
            until(lambda: kubelet.status()["refusals"], kubelet.log)
            kubelet.for_probes(6)
            assert (kubelet.ready, kubelet.restarts) == (False, 0)
            failed += kubelet.cardcash()["logins_failed"]
    assert failed == 1
