"""Plays a kubelet for one container of a pod: volumes, environment, probes, restarts, readiness, exactly by the manifest.

Documented in https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/ and .../workloads/pods/.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.containers.sandbox import Answer, Sandbox, until

Manifest = dict[str, Any]

SIMULATOR = ("127.0.0.1", 8090)


def pod_of(manifests: list[Manifest], kind: str = "Deployment") -> Manifest:
    """The pod's spec of the one workload of that kind."""
    (workload,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def proxy_of(pod: Manifest) -> Manifest:
    """The proxy's container, wherever it stands."""
    both = [*pod.get("initContainers", []), *pod["containers"]]
    container: Manifest
    (container,) = [each for each in both if each["name"] == "cardcash-proxy"]
    return container


class Secret:
    """A Secret in a volume, as the kubelet writes it: files through a link that is swapped as a whole."""

    def __init__(self, sandbox: Sandbox, path: str, mode: int, group: int | None) -> None:
        self._sandbox = sandbox
        self._path = path
        self._mode = mode
        self._group = group
        self._version = 0
        sandbox.shell(f"rm -rf {path} && mkdir -p {path} && chmod 755 {path}")

    def write(self, content: Mapping[str, str]) -> None:
        """Write the first or a new version."""
        self._version += 1
        at, there = self._path, f"..{self._version}"
        owner = f"chown root:{self._group}" if self._group is not None else "true"
        mode = self._mode | (0o440 if self._group is not None else 0)
        words = [f"cd {at}", f"mkdir {there}"]
        for name, text in content.items():
            staged = self._sandbox.folder / f"staged-{name}"
            staged.write_text(text)
            words += [f"cp {staged} {there}/{name}", f"{owner} {there}/{name}", f"chmod {mode:o} {there}/{name}"]
            words += [f"ln -sfn ..data/{name} {name}"]
        words += [f"ln -sn {there} ..new", "mv -T ..new ..data"]
        self._sandbox.shell(" && ".join(words))


class Kubelet:
    """Runs the proxy's container of a pod. `speed` shortens its waits between probes once it has started."""

    def __init__(
        self,
        sandbox: Sandbox,
        pod: Manifest,
        secret: Mapping[str, str],
        *,
        speed: float = 40.0,
        namespace: str = "shop",
        address: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.sandbox = sandbox
        self.pod = pod
        self.container = proxy_of(pod)
        self.speed = speed
        #: The pod's, by which it is probed: the cluster's first family.
        self.address = address or sandbox.addresses[0]
        self.restarts = 0
        self.ready = False
        #: Every change of readiness, and every end of the container with its reason.
        self.history: list[str] = []
        self.probes = 0
        #: Of exactly the manifest's, but for `more`: where the simulator stands for CardCash.
        self.env = {**self._environment(namespace), **(more or {"CARDCASH_UPSTREAM__ORIGIN": "http://127.0.0.1:8090"})}
        self.secrets: dict[str, Secret] = {}
        self._make_volumes(secret)
        (sandbox.folder / "proxy.log").unlink(missing_ok=True)
        self.process = self._start()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def _environment(self, namespace: str) -> dict[str, str]:
        fields = {"metadata.namespace": namespace, "status.podIP": self.address}
        env: dict[str, str] = {}
        for item in self.container["env"]:
            if "valueFrom" in item:
                env[item["name"]] = fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
            else:
                env[item["name"]] = re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], item["value"])
        return env

    def _make_volumes(self, content: Mapping[str, str]) -> None:
        group = self.pod.get("securityContext", {}).get("fsGroup")
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        for mount in self.container["volumeMounts"]:
            volume, path = volumes[mount["name"]], mount["mountPath"]
            if "secret" in volume:
                self.secrets[path] = Secret(self.sandbox, path, volume["secret"]["defaultMode"], group)
                self.secrets[path].write(content)
            else:
                assert volume["emptyDir"]["medium"] == "Memory"
                mode = "2777" if group is not None else "777"
                self.sandbox.shell(
                    f"mkdir -p {path}; umount -q {path}; mount -t tmpfs -o mode={mode},gid={group or 0} volume {path}"
                )

    @property
    def context(self) -> Manifest:
        return {**self.pod.get("securityContext", {}), **self.container["securityContext"]}

    def _start(self) -> subprocess.Popen[bytes]:
        context = self.context
        assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
        arguments: Sequence[str] = self.container.get("args", ["serve"])
        groups = [context["fsGroup"]] if "fsGroup" in context else []
        return self.sandbox.start(
            ["cardcash-proxy", *arguments], self.env, "proxy.log", user=context["runAsUser"], groups=groups
        )

    # -- probes

    def _probe(self, probe: Manifest) -> bool:
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        where = probe["httpGet"]
        self.probes += 1
        try:
            answer = self.sandbox.node.ask(
                "GET",
                self.address,
                ports[where["port"]],
                where["path"],
                timeout=probe.get("timeoutSeconds", 1),
                User_Agent="kube-probe/1.33",
            )
        except (OSError, http.client.HTTPException):
            return False
        return 200 <= answer.status < 400

    def _run(self) -> None:
        started, failures, due = False, dict.fromkeys(("startup", "readiness", "liveness"), 0), dict[str, float]()
        while not self._over.wait(0.01):
            if self.process.poll() is not None:
                if self.pod.get("restartPolicy") == "Never":
                    return
                self._restart(f"exit {self.process.returncode}")
                started, failures, due = False, dict.fromkeys(failures, 0), {}
            for kind in ("readiness", "liveness") if started else ("startup",):
                probe = self.container.get(f"{kind}Probe")
                if probe is None:
                    continue
                if time.monotonic() < due.get(kind, 0.0):
                    continue
                # A start takes the time it takes, so its probe keeps its own.
                pace = 1.0 if kind == "startup" else self.speed
                due[kind] = time.monotonic() + probe.get("periodSeconds", 10) / pace
                well = self._probe(probe)
                failures[kind] = 0 if well else failures[kind] + 1
                too_many = failures[kind] >= probe.get("failureThreshold", 3)
                if kind == "startup":
                    started = well
                if kind == "readiness" and (well or too_many):
                    self._tell_ready(well)
                elif too_many:
                    self.process.send_signal(signal.SIGTERM)
                    try:
                        self.process.wait(self.pod["terminationGracePeriodSeconds"] / self.speed)
                    except subprocess.TimeoutExpired:
                        self.process.kill()
                        self.process.wait()
                    self.history.append(f"{kind} failed")
                    break

    def _tell_ready(self, ready: bool) -> None:
        if ready is not self.ready:
            self.ready = ready
            self.history.append("ready" if ready else "not ready")

    def _restart(self, why: str) -> None:
        self.history.append(why)
        self._tell_ready(False)
        self.restarts += 1
        self.process = self._start()

    # -- what tests do and see

    def kill(self) -> None:
        """End the container as a lack of memory does, and wait for the next one to have started."""
        before = self.process
        before.kill()
        until(lambda: self.process is not before and self.status(), lambda: f"not started again: {self.log()}")

    def for_probes(self, count: int) -> None:
        """Wait until so many more probes were made."""
        wanted = self.probes + count
        until(lambda: self.probes >= wanted, lambda: "the kubelet has stopped probing", seconds=30)

    def exec(self, *command: str) -> tuple[int, str]:
        """`kubectl exec`: in the container, with its environment."""
        return self.sandbox.run(command, self.env, user=self.context["runAsUser"])

    def app(self, method: str, path: str, **more: Any) -> Answer:
        """What the app beside it gets."""
        return self.sandbox.within.ask(method, "127.0.0.1", 8080, path, **more)

    def status(self) -> Manifest:
        """/status, as Prometheus would reach it."""
        answer = self.sandbox.node.ask("GET", self.address, 8081, "/status")
        found: Manifest = json.loads(answer.body)
        return found

    def cardcash(self, **settings: Any) -> Manifest:
        """The simulator's counts of tokens; with settings, those are changed first."""
        if settings:
            self.sandbox.within.ask("POST", *SIMULATOR, "/_simulator/configure", body=json.dumps(settings).encode())
        counts: Manifest = json.loads(self.sandbox.within.ask("GET", *SIMULATOR, "/_simulator/counters").body)["tokens"]
        return counts

    def log(self) -> str:
        return self.sandbox.log("proxy.log")

    def events(self, name: str) -> list[Manifest]:
        lines = [json.loads(line) for line in self.log().rpartition("\n")[0].splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.process.kill()
        self.process.wait()


def simulated(sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start the simulator within."""
    process = sandbox.start(["cardcash-proxy", "simulate"], {}, "simulator.log")
    until(lambda: sandbox.within.ask("GET", *SIMULATOR, "/_simulator/").status == 200, lambda: "no simulator")
    return process


class Callers:
    """Callers that never rest; `wrong` has every answer that was not the good one."""

    def __init__(self, ask: Callable[[], Answer], good: Callable[[Answer], bool]) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self._ask, self._good = ask, good
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callers", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(0.05):
            try:
                answer = self._ask()
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                continue
            self.answered += 1
            if not self._good(answer):
                self.wrong.append(f"{answer.status} {answer.body[:200]!r}")

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
