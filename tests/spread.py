"""How pytest-xdist spreads the tests over its workers: `pytest -n 6 --dist loadfile`.

A file is one piece of work, so that what its fixtures start (a browser, a Prometheus, an image, namespaces) is started once.
The tests of long files that start nothing in common are pieces of their own. What takes longest is begun first.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

#: Begun first, in this order: what waits long, so that others run meanwhile; then what runs whole processes.
FIRST = (
    "tests/house/test_alerts_for_real.py",
    "tests/house/test_image.py",
    "tests/containers/test_compose.py",
    "tests/containers/test_kubelet.py",
    "tests/session/redis/test_failover.py",
    "tests/session/redis/test_herd.py",
    "tests/server/test_fleet_logins.py",
    "tests/server/test_what_the_caller_is_told.py",
    "tests/whole/test_cost.py",
    "tests/whole/test_given_back.py",
    "tests/settings/test_every_setting.py",
    "tests/whole/",
)
#: Files and folders whose tests start nothing in common that is slow to start.
SINGLY = (
    "tests/fuzz/test_mutations.py",
    "tests/server/test_fleet_logins.py",
    "tests/server/test_what_the_caller_is_told.py",
    "tests/session/redis/test_failover.py",
    "tests/session/redis/test_herd.py",
    "tests/settings/test_every_setting.py",
    "tests/whole/",
)
#: Of those, files whose tests do start something together.
TOGETHER = ("tests/whole/test_completion.py",)


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Put what takes longest first, and leave the order as it is otherwise."""
    return sorted(
        items, key=lambda item: next((i for i, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))
    )


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Gives a file to a worker, or one test of `SINGLY`, whenever it has nearly done what it has."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False  # else what has most tests comes first
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        alone = nodeid.startswith(SINGLY) and not nodeid.startswith(TOGETHER)
        return nodeid if alone else file_of(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        """Let a worker that came in place of another collect first, when one more of them is ready before it."""
        if node in self.registered_collections:
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take what a worker that died had left; not the test that it died of, which the others would die of, too."""
        left = {scope: tests for scope, tests in self.assigned_work[node].items() if not all(tests.values())}
        self.assigned_work[node] = left
        running = next((nodeid for tests in left.values() for nodeid, done in tests.items() if not done), None)
        if running is not None:
            left[self._split_scope(running)][running] = True
        super().remove_node(node)
        return running
