"""The manifests of config/kubernetes: valid for the API, valid as settings, and what must hold of each pod."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.settings import Settings, load_settings
from proxy.settings.model import leaves
from tests.containers.kubelet import Manifest, pod_of, proxy_of
from tests.containers.kustomize import build
from tests.house.pages import ROOT, text_of

TREE = ROOT / "config/kubernetes"
BUILT = {name: build(TREE / name) for name in ("example", "shared", "monitoring", "job")}
PODS = {name: pod_of(BUILT[name], "Job" if name == "job" else "Deployment") for name in ("example", "shared", "job")}
#: Those that a kubelet keeps alive.
PROBED = ("example", "shared")
#: Seconds after `drain.timeout` in which the session and the last lines of the log are written.
TO_END = 16
#: Seconds that the first attempt at a session may take.
FIRST_ATTEMPT = 10

#: Those of the Prometheus operator have no schema in Kubernetes.
EVERY = [
    (name, manifest)
    for name, manifests in BUILT.items()
    for manifest in manifests
    if not manifest["apiVersion"].startswith("monitoring.coreos.com/")
]


def _name(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['kind']} {value['metadata']['name']}" if "kind" in value else str(value["name"])
    return str(value)


@pytest.mark.parametrize("version", ["1.29.0", "1.37.0"])
@pytest.mark.parametrize(("folder", "manifest"), EVERY, ids=_name)
def test_a_manifest_is_valid_for_the_api_without_a_field_too_many(
    folder: str, manifest: Manifest, version: str
) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed (no Debian package has kustomize)"
)
@pytest.mark.parametrize("folder", BUILT)
def test_kubectl_builds_the_same(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(TREE / folder)], capture_output=True, check=True, timeout=50)
    assert sorted(map(str, map(_sorted, yaml.safe_load_all(done.stdout)))) == sorted(
        map(str, map(_sorted, BUILT[folder]))
    )


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _settings(name: str, folder: Path) -> Settings:
    environ: dict[str, str] = {}
    for item in proxy_of(PODS[name])["env"]:
        environ[item["name"]] = item.get("value", "shop").replace("$(POD_NAMESPACE)", "shop")
    mounts = [mount["mountPath"] for mount in proxy_of(PODS[name])["volumeMounts"]]
    for variable, value in environ.items():
        if variable.endswith("_FILE"):
            assert str(Path(value).parent) in mounts
            environ[variable] = str(folder / Path(value).name)
            Path(environ[variable]).write_text(_CONTENT.get(Path(value).name, "a-secret\n"))
    return load_settings(environ={key: value for key, value in environ.items() if key.startswith("CARDCASH_")})


_CONTENT = {"store-url": "rediss://user:secret@redis.redis.svc:6379\n", "store-ca.crt": ""}


@pytest.fixture(autouse=True, scope="module")
def _certificate() -> None:
    import trustme

    _CONTENT["store-ca.crt"] = trustme.CA().cert_pem.bytes().decode()


@pytest.mark.parametrize("name", PODS)
def test_the_environment_is_a_valid_configuration_with_a_login(name: str, tmp_path: Path) -> None:
    assert _settings(name, tmp_path).login.configured


@pytest.mark.parametrize("name", PODS)
def test_no_secret_stands_in_a_manifest(name: str) -> None:
    secret = {leaf.variable for leaf in leaves().values() if leaf.hidden}
    assert secret & {item["name"] for item in proxy_of(PODS[name])["env"]} == set()


@pytest.mark.parametrize("name", ["example", "job"])
def test_nobody_beyond_the_pod_can_call_a_sidecar(name: str, tmp_path: Path) -> None:
    assert all(address.loopback for address in _settings(name, tmp_path).listen)


@pytest.mark.parametrize("name", PROBED)
def test_probes_and_scrapers_come_to_the_pods_address_in_either_family(name: str, tmp_path: Path) -> None:
    assert [address.host for address in _settings(name, tmp_path).admin.listen] == ["0.0.0.0", "::"]


@pytest.mark.parametrize("name", PROBED)
def test_a_refused_login_never_restarts_a_container(name: str) -> None:
    container = proxy_of(PODS[name])
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/startupz", "liveness": "/healthz", "readiness": "/readyz"}


@pytest.mark.parametrize("name", PROBED)
def test_a_probe_waits_for_a_busy_node(name: str) -> None:
    assert {
        proxy_of(PODS[name])[f"{kind}Probe"]["timeoutSeconds"] for kind in ("startup", "liveness", "readiness")
    } == {3}


@pytest.mark.parametrize("name", PROBED)
def test_the_first_attempt_at_a_session_fits_into_the_start(name: str) -> None:
    probe = proxy_of(PODS[name])["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3 * FIRST_ATTEMPT


def test_the_sidecar_is_a_native_one_and_the_first_to_start() -> None:
    assert PODS["example"]["initContainers"][0]["name"] == "cardcash-proxy"
    assert proxy_of(PODS["example"])["restartPolicy"] == "Always"


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job"])
def test_the_component_is_added_to_a_workload_of_any_kind(kind: str, tmp_path: Path) -> None:
    shutil.copytree(TREE / "base", tmp_path / "base")
    app = {
        "spec": {"containers": [{"name": "app", "image": "app"}], "initContainers": [{"name": "own", "image": "own"}]}
    }
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "app"}, "spec": {"template": app}}
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(workload))
    (tmp_path / "kustomization.yaml").write_text("resources: [app.yaml]\ncomponents: [base]\n")
    pod = pod_of(build(tmp_path), kind)
    assert [container["name"] for container in pod["initContainers"]] == ["cardcash-proxy", "own"]
    assert [container["name"] for container in pod["containers"]] == ["app"]


@pytest.mark.parametrize("name", PODS)
def test_the_pod_waits_for_the_drain(name: str, tmp_path: Path) -> None:
    drain = _settings(name, tmp_path).drain
    assert PODS[name]["terminationGracePeriodSeconds"] >= drain.delay + drain.timeout + TO_END


CONTAINERS = [
    (name, container)
    for name, pod in PODS.items()
    for container in [*pod.get("initContainers", []), *pod["containers"]]
]


@pytest.mark.parametrize(
    ("name", "container"), CONTAINERS, ids=lambda value: str(value if isinstance(value, str) else value["name"])
)
def test_a_container_is_restricted(name: str, container: Manifest) -> None:
    """What the level "restricted" asks for: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    context = {**PODS[name].get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(container["resources"]) == {"requests", "limits"}
    assert "cpu" not in container["resources"]["limits"]  # a throttled proxy answers late


@pytest.mark.parametrize("name", PODS)
def test_the_proxy_runs_as_the_user_of_the_image(name: str) -> None:
    context = {**PODS[name].get("securityContext", {}), **proxy_of(PODS[name])["securityContext"]}
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in text_of("Dockerfile")


@pytest.mark.parametrize("name", PODS)
def test_the_proxy_can_read_its_secrets(name: str) -> None:
    (mode,) = [volume["secret"]["defaultMode"] for volume in PODS[name]["volumes"] if "secret" in volume]
    assert mode & (0o040 if "fsGroup" in PODS[name].get("securityContext", {}) else 0o004)


@pytest.mark.parametrize(
    "spelling", ["cardcash", "cardcash.shop", "cardcash.shop.svc", "cardcash.shop.svc.cluster.local"]
)
def test_every_spelling_of_the_service_is_served(spelling: str, tmp_path: Path) -> None:
    (service,) = [each for each in BUILT["shared"] if each["metadata"]["name"] == spelling.partition(".")[0]]
    assert service["kind"] == "Service"
    assert spelling in (_settings("shared", tmp_path).callers.allowed_hosts or ())


def test_replicas_keep_their_session_in_a_redis_with_tls(tmp_path: Path) -> None:
    assert str(_settings("shared", tmp_path).session.store) == "rediss://redis.redis.svc:6379"


def _one(folder: str, kind: str) -> Manifest:
    (found,) = [manifest for manifest in BUILT[folder] if manifest["kind"] == kind]
    return found


def test_everything_of_the_service_means_the_same_pods() -> None:
    labels = _one("shared", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert _one("shared", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert _one("shared", "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert _one("shared", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "cardcash-proxy"
    assert [each["spec"]["selector"] for each in BUILT["shared"] if each["kind"] == "Service"] == [labels, labels]


def test_monitors_find_the_pods_and_the_service() -> None:
    pods, service = _one("monitoring", "PodMonitor")["spec"], _one("monitoring", "ServiceMonitor")["spec"]
    sidecar = _one("example", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert pods["selector"]["matchLabels"].items() <= sidecar.items()
    (admin,) = [
        each
        for each in BUILT["shared"]
        if each["kind"] == "Service"
        and service["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    (port,) = admin["spec"]["ports"]
    assert {port["name"], pods["podMetricsEndpoints"][0]["port"], service["endpoints"][0]["port"]} == {"admin"}


def test_each_app_with_a_sidecar_is_a_fleet_of_its_own() -> None:
    """Alerts are for a job: what befalls one app must not be hidden by the alert of another in its namespace."""
    app = _one("example", "Deployment")["spec"]
    label = _one("monitoring", "PodMonitor")["spec"]["jobLabel"]
    assert label in app["template"]["metadata"]["labels"]
    assert label in app["selector"]["matchLabels"]


def test_the_rule_of_the_operator_has_the_alerts_of_prometheus() -> None:
    alerts = yaml.safe_load(text_of("config/prometheus/alerts.yml"))
    assert _one("monitoring", "PrometheusRule")["spec"] == alerts, "run `make manifests`"


def test_the_dashboard_is_a_config_map_that_grafana_finds() -> None:
    found = _one("monitoring", "ConfigMap")
    assert found["data"] == {"dashboard.json": text_of("config/grafana/dashboard.json")}
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}


def test_a_job_tries_a_refused_login_once() -> None:
    spec = _one("job", "Job")["spec"]
    assert (spec["backoffLimit"], PODS["job"]["restartPolicy"]) == (0, "Never")
