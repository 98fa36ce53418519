"""A right that one process at a time holds: a holder that is stopped is passed by, by exactly one and in time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.session.ports import RENEWAL_DEADLINE
from proxy.session.stores import LEASE, Right, SharedStore
from proxy.session.stores.file import FileStore
from proxy.session.stores.file_right import LockFile
from tests.server.harness import until
from tests.session.fakes import FakeClock
from tests.session.store_contract import MINE, RIGHTS, held, holder, load

Make = Callable[[], SharedStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.json"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def make(path: Path, clock: FakeClock) -> AsyncIterator[Make]:
    stores: list[FileStore] = []

    def one() -> SharedStore:
        stores.append(FileStore(path, binding=lambda: MINE, clock=clock, warn=print))
        return stores[-1]

    yield one
    for store in stores:
        await store.close()


class Waiters:
    """Several who wait for one right; each has it until it is told to go on."""

    def __init__(self, make: Make, right: Right, how_many: int) -> None:
        self.inside = 0
        self.most = 0
        self.turns = 0
        self.go = asyncio.Event()
        self.tasks = [asyncio.create_task(self._wait(make(), right)) for _ in range(how_many)]

    async def _wait(self, store: SharedStore, right: Right) -> None:
        async with held(store, right):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.go.wait()
            self.inside -= 1
            self.turns += 1

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def looked(make: Make) -> None:
    """Let those who wait look a few times."""
    store = make()
    for _ in range(20):
        await load(store)
        await asyncio.sleep(0.01)


def test_nobody_waits_for_a_stopped_holder_until_callers_give_up() -> None:
    assert LEASE < RENEWAL_DEADLINE / 2


@RIGHTS
async def test_exactly_one_passes_by_a_holder_that_is_stopped(
    make: Make, clock: FakeClock, path: Path, right: Right
) -> None:
    async with holder(f"file://{path}", right) as process:
        waiters = Waiters(make, right, 5)
        process.send_signal(signal.SIGSTOP)
        await looked(make)
        assert waiters.inside == 0
        clock.advance(LEASE)
        await until(lambda: waiters.inside)
        clock.advance(LEASE / 2)
        await looked(make)
        assert waiters.inside == 1
        waiters.go.set()
        await asyncio.gather(*waiters.tasks)
        assert (waiters.most, waiters.turns) == (1, 5)


async def test_one_who_passed_by_and_is_stopped_too_is_passed_by_in_its_turn(
    make: Make, clock: FakeClock, path: Path
) -> None:
    place = f"file://{path}"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            # The second passes the first by, in its own time.
            process = await stack.enter_async_context(holder(place, Right.RENEWAL))
            process.send_signal(signal.SIGSTOP)
        waiters = Waiters(make, Right.RENEWAL, 2)
        await looked(make)
        clock.advance(LEASE)
        await until(lambda: waiters.inside)
        waiters.go.set()
        await asyncio.gather(*waiters.tasks)
        assert waiters.most == 1


async def test_a_holder_that_lives_is_waited_for_however_long_it_takes(make: Make, path: Path) -> None:
    real = SystemClock()
    async with holder(f"file://{path}", Right.RENEWAL):
        store = FileStore(path, binding=lambda: MINE, clock=real, warn=print)
        waiting = asyncio.create_task(held(store).__aenter__())
        done, _ = await asyncio.wait({waiting}, timeout=LEASE + 1.5)
        assert not done
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await store.close()


async def test_a_stopped_holder_that_goes_on_neither_frees_nor_takes_what_others_have(
    make: Make, clock: FakeClock, path: Path
) -> None:
    async with holder(f"file://{path}", Right.RENEWAL) as process:
        process.send_signal(signal.SIGSTOP)
        waiters = Waiters(make, Right.RENEWAL, 1)
        await looked(make)
        clock.advance(LEASE)
        await until(lambda: waiters.inside)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        late = Waiters(make, Right.RENEWAL, 1)
        await looked(make)
        assert late.inside == 0
        waiters.go.set()
        late.go.set()
        await asyncio.gather(*waiters.tasks, *late.tasks)


@pytest.fixture
def lock_file(tmp_path: Path) -> Iterator[Callable[[], LockFile]]:
    """Build participants at one lock file."""
    files: list[LockFile] = []

    def one() -> LockFile:
        files.append(LockFile(tmp_path / "lock"))
        return files[-1]

    yield one
    for file in files:
        file.close()


def test_of_two_who_pass_a_holder_by_one_has_the_right(lock_file: Callable[[], LockFile]) -> None:
    holder, first, second = (lock_file() for _ in range(3))
    assert holder.take() is None
    assert first.take() == second.take() is not None
    assert first.pass_by()
    assert not second.pass_by()
    assert [file.touch() for file in (holder, first, second)] == [False, True, False]


def test_who_cannot_pass_a_holder_by_leaves_nothing_open(
    lock_file: Callable[[], LockFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = lock_file(), lock_file()
    assert holder.take() is None
    assert other.take() is not None
    closed: list[int] = []
    opened, close = os.open, os.close

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def counted(*how: Any) -> int:
        closed.append(0)
        return opened(*how)

    def uncounted(descriptor: int) -> None:
        closed.pop()
        close(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        patch.setattr(os, "open", counted)
        patch.setattr(os, "close", uncounted)
        with pytest.raises(OSError, match="No space"):
            other.pass_by()
    assert closed == []
    assert holder.touch()


async def test_a_right_whose_file_was_removed_is_lost(make: Make, path: Path) -> None:
    first, second = make(), make()
    assert await first.take_login_turn()
    path.with_name("session.json.login").unlink()
    assert not await first.extend(Right.LOGIN)
    assert await second.take_login_turn()
