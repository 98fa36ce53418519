"""What the processes of one proxy report of themselves, told as of one: health, readiness, status and metrics. Pure.

A single process is told as the sum of one report. A report is what `OwnProcess.report` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Metric

from proxy import __version__
from proxy.telemetry import history
from proxy.telemetry.summed_metrics import Families, counted, read, silent_workers

State = dict[str, Any]

#: Of the session: counted by every process, and by those before it.
COUNTS: Final = ("renewals", "harvests")
#: What `workers` of `/status` tells of each; `processes` tells more.
_OF_A_WORKER: Final = ("worker", "pid", "state", "since", "restarts", "requests_in_flight")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: what its supervisor knows of it, and its last report."""

    #: `pid`, `state` (starting, up or down) and `since`; of a worker its number and `restarts` besides.
    known: State
    #: {}: there is none yet. It may be that of the process before this one.
    report: State
    #: It is up, and the report is its own and new.
    answers: bool
    #: Gives its metrics; those of `report` are the last it has written.
    measured: Callable[[], Iterable[Metric]]

    @property
    def is_well(self) -> bool:
        """Say whether it would say at its own `/healthz` that it is alive."""
        return self.answers and not self.report["not_alive"]

    @property
    def starting(self) -> list[str]:
        """List what stands against its start being over, by its own report or, without one, by what is known."""
        if self.known["state"] == "starting":
            return ["starting"]
        if self.known["state"] == "down":
            return [f"worker {self.known['worker']} has died and is being started again"]
        starting: list[str] = (
            self.report["starting"] if self.answers else [f"worker {self.known['worker']} does not answer"]
        )
        return starting

    @property
    def left(self) -> State:
        """What the processes before this one had counted."""
        left: State = self.report.get("left", {})
        return left

    def families(self) -> Families:
        """Give all its metrics, if it does not answer only what it had counted; and what those before it had counted."""
        now = self.measured()
        return [*(now if self.answers else counted(now)), *read(self.left.get("metrics", ()))]

    def count(self, name: str) -> int:
        """How many of `COUNTS` there were, those before this process included."""
        now, before = self.report.get("session", {}).get(name, 0), self.left.get(name, 0)
        return int(now + before)

    def row(self) -> State:
        """Describe it as `/status` does."""
        if self.answers:
            return {**self.known, **self.report["process"]}
        state = "silent" if self.known["state"] == "up" else self.known["state"]
        return {**self.known, "state": state, "requests_in_flight": None, "requests": None, "memory_mb": None}


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of a proxy, as `own`, which is one of them and answers, knows them."""

    since: str
    draining: bool
    own: Process
    each: Sequence[Process]

    @property
    def not_alive(self) -> list[str]:
        """Name what has died in this process; nothing while another is well: a restart of all would cure nothing then."""
        return [] if any(one.is_well for one in self.each) else self.own.report["not_alive"]

    @property
    def starting(self) -> list[str]:
        """List what stands against the start being over: the first attempt at a session, well or not."""
        return _once(one.starting for one in self.each)

    @property
    def refusals(self) -> list[str]:
        """List what of the credentials is refused, until CardCash has accepted them once since the start."""
        if self.draining or any(one.report.get("accepted") for one in self.each):
            return []
        return _once(self._all("refusals"))

    @property
    def not_ready_because(self) -> list[str]:
        """List what stands against readiness; an outage of the upstream does not.

        A refusal does as long as these credentials were never good, also while they are tried again: a rollout of wrong ones
        halts. Once ready, it does not: to take all replicas out of service helps nobody.
        """
        if self.draining:
            return ["draining"]
        was_ready, accepted = (any(one.report.get(name) for one in self.each) for name in ("was_ready", "accepted"))
        refused = [] if was_ready or accepted else self.refusals or _once(self._all("forgotten"))
        return self.starting + ["draining"] * any(self._all("draining")) + refused

    def status(self) -> State:
        """Describe them as one proxy, and each; holds no token and no application id."""
        because, rows = self.not_ready_because, [one.row() for one in self.each]
        stores, upstreams = self._all("store"), self._all("upstream")
        told = {
            "version": __version__,
            "since": self.since,
            "ready": not because,
            "not_ready_because": because,
            "refusals": _once(self._all("refusals")),
            "not_alive": self.not_alive,
            "draining": self.draining,
            **history.merged(self._all("events")),
            "traffic": history.added(self._all("traffic")),
            "session": self.session(),
            # What is wrong with the store for one of them is told.
            "store": {
                **next((one for one in stores if not one["up"]), stores[0]),
                **{name: any(one[name] for one in stores) for name in ("pending", "alone")},
            },
            "upstream": {
                name: value if name == "origin" else sum(one[name] for one in upstreams)
                for name, value in upstreams[0].items()
            },
            "requests_in_flight": sum(one["requests_in_flight"] for one in self._all("process")),
            "processes": rows,
        }
        if "worker" in self.own.known:
            told["workers"] = [{name: row[name] for name in _OF_A_WORKER} for row in rows]
        return told

    def session(self, *, own: bool = False) -> State:
        """Tell of the session. All have the same but for a second after it changed: the one that lives longest is told.

        `own`: this process is known to have the newest.
        """
        sessions = self._all("session")
        longest = max(sessions, key=lambda one: one["expires_in_seconds"] or 0.0)
        base = self.own.report["session"] if own else longest
        refused = next((one for one in sessions if one["latched"]), base)
        return {
            **base,
            **{name: refused[name] for name in ("latched", "advice")},
            "refused": sorted({what for one in sessions for what in one["refused"]}),
            **{name: max(one[name] for one in sessions) for name in ("paused_seconds", "failures_in_a_row")},
            **{name: any(one[name] for one in sessions) for name in ("renews_by_itself", "renewing")},
            "waiters": sum(one["waiters"] for one in sessions),
            **{name: sum(one.count(name) for one in self.each) for name in COUNTS},
        }

    def families(self) -> list[Families]:
        """Give the metrics of each, to be summed."""
        silent = silent_workers(sum(not one.answers for one in self.each))
        return [*(one.families() for one in self.each), [silent]]

    def _all(self, name: str) -> list[Any]:
        """List what each that answers reports under this name."""
        return [one.report[name] for one in self.each if one.answers]


def _once(reasons: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(reason for some in reasons for reason in some))
