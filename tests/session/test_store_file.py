"""`file:///path`: the contract of all stores, and what is special about files and processes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.core.token import Moment, Source, Token
from proxy.core.values import Bad
from proxy.session.stores import Binding, SharedStore, StoreUnusable
from proxy.session.stores import file as module
from proxy.session.stores.factory import check_store, open_store
from proxy.session.stores.file import FileStore
from proxy.session.stores.fingerprints import Fingerprints
from proxy.session.stores.memory import MemoryStore
from proxy.settings import parsing
from tests.session import store_contract
from tests.session.conftest import Build
from tests.session.fakes import APP, FakeClock, settle
from tests.session.store_contract import MINE, enter, held, load, refusals


class Shop:
    """Stores on one file, as processes would have them, all closed at the end."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.path = folder / "session.json"
        self.clock = clock
        self.binding = MINE
        self.warnings: list[str] = []
        self.stores: list[FileStore] = []

    def store(self, binding: Binding | None = None) -> FileStore:
        store = FileStore(
            self.path, binding=lambda: binding or self.binding, clock=self.clock, warn=self.warnings.append
        )
        self.stores.append(store)
        return store

    def token(self, value: str = "one.token.", lifetime: float = 600) -> Token:
        return Token(value, self.clock.now(), lifetime)

    def write(self, content: str | bytes, mode: int = 0o600) -> None:
        self.path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.path.chmod(mode)

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path, clock)
    yield shop
    for store in shop.stores:
        await store.close()


class TestFileStore(store_contract.SharedStoreContract):
    @pytest.fixture(autouse=True)
    def unhurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twenty who write at once share one disk: who of them wins is the rule, not how soon."""
        monkeypatch.setattr(module, "_PATIENCE", 20.0)

    @pytest.fixture
    def place(self, shop: Shop) -> str:
        return f"file://{shop.path}"

    @pytest.fixture
    def make_for(self, shop: Shop) -> Callable[[Binding], SharedStore]:
        return shop.store


async def value(store: SharedStore) -> str | None:
    token = await load(store)
    return None if token is None else token.value


# Restarts


async def test_a_token_survives_a_restart_and_its_life_goes_on(shop: Shop, clock: FakeClock) -> None:
    await shop.store().save(shop.token(), replaces=None)
    clock.wall += 100
    clock.steady = 3.0  # the machine was started anew
    token = await load(shop.store())
    assert token is not None
    assert token.source is Source.STORE
    assert token.expires_wall == pytest.approx(clock.wall + 495)
    assert token.expires_at == pytest.approx(clock.steady + 495)


async def test_a_token_that_expired_meanwhile_is_not_there(shop: Shop, clock: FakeClock) -> None:
    await shop.store().save(shop.token(), replaces=None)
    clock.wall += 600
    clock.steady = 3.0
    assert await load(shop.store()) is None
    assert await shop.store().save(shop.token("two.token."), replaces=None)


async def test_an_expired_token_may_still_be_named_as_the_one_to_replace(shop: Shop, clock: FakeClock) -> None:
    store = shop.store()
    token = shop.token()
    await store.save(token, replaces=None)
    clock.advance(600)
    assert await store.save(shop.token("two.token."), replaces=token)


async def test_a_token_from_the_far_future_is_not_there(shop: Shop, clock: FakeClock) -> None:
    await shop.store().save(shop.token(), replaces=None)
    clock.wall -= 3600
    assert await load(shop.store()) is None
    assert shop.warnings == []


async def test_a_restarted_keeper_goes_on_with_the_token_and_says_where_it_is_from(build: Build, shop: Shop) -> None:
    first = build(clock=shop.clock, store=shop.store())
    held = await first.keeper.token()
    await first.keeper.close()
    shop.clock.wall += 60
    shop.clock.steady = 5.0
    second = build(clock=shop.clock, store=shop.store())
    await second.keeper.start(eager=True)
    assert (second.held.value, second.keeper.status()["source"]) == (held.value, "store")
    assert second.keeper.status()["expires_in_seconds"] == pytest.approx(held.lifetime - 60 - 5)
    assert second.calls.sessions == []


# Whose it is


async def test_the_binding_follows_rotated_secrets(shop: Shop) -> None:
    store = shop.store()
    await store.save(shop.token(), replaces=None)
    shop.binding = replace(MINE, app_id="new")
    assert await load(store) is None
    shop.binding = MINE
    assert await value(store) == "one.token."


async def test_a_token_of_the_app_id_before_is_not_kept_as_one_of_the_new(shop: Shop) -> None:
    store = shop.store()
    shop.binding = replace(MINE, app_id="new")
    await store.save(replace(shop.token(), app_id=APP), replaces=None)
    assert await load(store) is None


async def test_nothing_of_the_secrets_is_in_the_file(shop: Shop) -> None:
    secrets = "password-of-the-account"
    await shop.store().save(shop.token(), replaces=None)
    await shop.store().refuse({"login": "x"}, secrets)
    for secret in (secrets, APP, "example.com", "cardcash.example"):
        assert secret not in shop.text
    assert APP not in repr(MINE)


async def test_the_same_secrets_are_hashed_with_another_salt_each_time(shop: Shop) -> None:
    await shop.store().refuse({"login": "x"}, "secrets")
    first = shop.text
    await shop.store().refuse({"login": "x"}, "secrets")
    assert shop.text != first


async def test_the_slow_hash_is_made_once_for_what_is_looked_at_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.store().refuse({"login": "x"}, "secrets")
    made = []
    scrypt = hashlib.scrypt

    def counted(secrets: bytes, **how: Any) -> bytes:
        made.append(threading.current_thread())
        return scrypt(secrets, **how)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    store = shop.store()
    for _ in range(3):
        assert await refusals(store)
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


async def test_without_a_latch_nothing_is_hashed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashlib, "scrypt", None)
    store = shop.store()
    await store.refuse({}, "secrets")
    await store.save(shop.token(), replaces=None)
    await store.refuse({}, "secrets")
    assert await refusals(store) == {}


@pytest.mark.parametrize("fingerprint", ["", "zz:00", "00", ":", "é:"])
async def test_a_fingerprint_that_is_none_opens_the_latch(shop: Shop, fingerprint: str) -> None:
    store = shop.store()
    await store.refuse({"login": "x"}, "secrets")
    content = json.loads(shop.text)
    content["entries"][MINE.key]["fingerprint"] = fingerprint
    shop.write(json.dumps(content))
    assert await refusals(store) == {}


def test_a_refusal_that_an_earlier_version_stored_is_found() -> None:
    stored = (
        f"{'00' * 16}:8120c115464cdd25df7e40b914e2c21e2b2b76ac8a1941b35c95ea6956dfea03"
        "4576259218909e009f912e967c0521f09d2a7269a68e6cd61bbf53f4e5a07c58"
    )
    assert Fingerprints().find(["00:00", stored], "secrets") == stored


# Modes and owners


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


async def test_all_files_have_mode_0600_whatever_the_umask(shop: Shop, umask: None) -> None:
    store = shop.store()
    async with held(store):
        await store.save(shop.token(), replaces=None)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shop.path.parent.iterdir()}
    assert modes == dict.fromkeys(("session.json", "session.json.lock", "session.json.lease"), 0o600)


def spoil(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how in ("0640", "0604", "0666"):
        path.write_text("{}")
        path.chmod(int(how, 8))
    elif how == "foreign":
        path.write_text("{}")
        path.chmod(0o600)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    elif how == "link":
        path.with_name("target").touch(0o600)
        path.symlink_to(path.with_name("target"))
    elif how == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif how == "folder":
        path.mkdir(0o700)
    else:
        os.mkfifo(path, 0o600)


SPOILT = {
    "0640": "(mode 0640)",
    "0604": "(mode 0604)",
    "0666": "(mode 0666)",
    "foreign": "belongs to another user",
    "link": "is not a plain file",
    "dangling link": "is not a plain file",
    "folder": "is not a plain file",
    "pipe": "is not a plain file",
}


@pytest.mark.parametrize("name", ["session.json", "session.json.lock", "session.json.lease"])
@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_not_ours_alone_is_refused_at_the_start(
    tmp_path: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(tmp_path / name, how, monkeypatch)
    with pytest.raises(StoreUnusable) as refused:
        check_store(f"file://{tmp_path}/session.json")
    sentence = str(refused.value)
    assert sentence.startswith(f"session.store: {tmp_path / name} ")
    assert SPOILT[how] in sentence


@pytest.mark.parametrize("how", SPOILT)
async def test_a_file_that_is_not_ours_alone_fails_each_operation_and_is_left_as_it_is(
    shop: Shop, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(shop.path, how, monkeypatch)
    before = shop.path.lstat()
    store = shop.store()
    errors = []
    for operation in (
        store.look("secrets"),
        store.save(shop.token(), replaces=None),
        store.refuse({"login": "x"}, "s"),
    ):
        with pytest.raises((StoreUnusable, OSError)) as failed:
            await operation
        errors.append(failed.value)
    assert (shop.path.lstat().st_ino, shop.path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not shop.path.with_name("nowhere").exists()


async def test_a_keeper_goes_on_without_a_file_that_became_readable_by_others(build: Build, shop: Shop) -> None:
    house = build(clock=shop.clock, store=shop.store())
    first = await house.keeper.token()
    shop.path.chmod(0o644)
    assert await house.keeper.renew(rejected=first) is house.held
    assert house.seen.stores["enter", "failed"] == house.seen.stores["save", "failed"] == 1
    assert first.value in shop.text


def test_a_folder_that_is_missing_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"the folder .*/missing does not exist"):
        check_store(f"file://{tmp_path}/missing/session.json")


def test_a_folder_that_is_a_file_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="does not exist"):
        check_store(f"file://{tmp_path}/file/session.json")


def test_a_folder_that_may_not_be_written_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreUnusable, match="may not write"):
        check_store(f"file://{tmp_path}/session.json")


def test_a_name_that_is_too_long_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="cannot be used"):
        check_store(f"file://{tmp_path}/{'x' * 300}")


def test_the_check_at_the_start_changes_nothing(tmp_path: Path) -> None:
    check_store(f"file://{tmp_path}/session.json")
    check_store("memory://")
    assert list(tmp_path.iterdir()) == []


async def test_the_setting_picks_the_kind_of_store(tmp_path: Path, clock: FakeClock) -> None:
    warnings: list[str] = []

    def opened(place: str) -> SharedStore:
        return open_store(place, binding=lambda: MINE, clock=clock, warn=warnings.append)

    assert isinstance(opened("memory://"), MemoryStore)
    store = opened(f"file://{tmp_path}/session.json")
    await store.save(Token("a.b.c", clock.now()), replaces=None)
    assert (tmp_path / "session.json").exists()
    with pytest.raises(StoreUnusable):
        opened("file:///nowhere/session.json")
    await store.close()


@pytest.mark.parametrize(
    "place", ["sqlite://:secret@x", "sqlite:///x", "memory", "memory://x", "file", "", "FILE:///x"]
)
def test_a_kind_of_store_that_is_not_known_is_an_error_that_repeats_nothing(place: str, clock: FakeClock) -> None:
    for use in (check_store, lambda place: open_store(place, binding=lambda: MINE, clock=clock, warn=print)):
        with pytest.raises(StoreUnusable, match="no store of this kind") as refused:
            use(place)
        assert "secret" not in str(refused.value)


def test_every_kind_that_the_setting_takes_can_be_opened(tmp_path: Path, clock: FakeClock) -> None:
    for kind in parsing.STORES:
        try:
            place = parsing.store(f"{kind}://" if kind == "memory" else f"{kind}://{tmp_path}/session")
        except Bad:
            continue
        assert isinstance(place, str)
        assert open_store(place, binding=lambda: MINE, clock=clock, warn=print) is not None


# Content


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b'{"version": 1, "ent', b"[]", b"[" * 100_000, b" " * 2_000_000])
async def test_a_corrupt_file_is_empty_warned_of_once_and_overwritten(shop: Shop, content: bytes) -> None:
    shop.write(content)
    store = shop.store()
    assert await load(store) is None
    assert await refusals(store) == {}
    assert await store.save(shop.token(), replaces=None)
    assert await value(store) == "one.token."
    assert len(shop.warnings) == 1
    assert "session.store is corrupt" in shop.warnings[0]


async def test_a_file_that_is_corrupt_again_is_warned_of_again(shop: Shop) -> None:
    store = shop.store()
    for _ in range(2):
        shop.write("corrupt")
        await store.save(shop.token(), replaces=None)
        await load(store)
    assert len(shop.warnings) == 2


async def test_a_warning_comes_in_the_event_loop(shop: Shop) -> None:
    threads = []
    store = FileStore(
        shop.path,
        binding=lambda: MINE,
        clock=shop.clock,
        warn=lambda _: threads.append(threading.current_thread()),
    )
    shop.stores.append(store)
    shop.write("corrupt")
    await load(store)
    assert threads == [threading.main_thread()]


# The disk


async def test_a_reader_never_sees_half_a_file(shop: Shop) -> None:
    writer, reader = shop.store(), shop.store()
    token = shop.token()
    await writer.save(token, replaces=None)
    seen = set()

    async def write() -> None:
        kept = token
        for number in range(100):
            new = shop.token(f"{'x' * (number * 70 + 1)}.token.")
            assert await writer.save(new, replaces=kept)
            kept = new

    writing = asyncio.create_task(write())
    while not writing.done():
        seen.add(await value(reader))
    await writing
    assert None not in seen
    assert shop.warnings == []


@pytest.mark.parametrize("where", ["fsync", "replace"])
async def test_a_crash_while_writing_leaves_the_old_file(
    shop: Shop, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shop.store()
    first = shop.token()
    await store.save(first, replaces=None)
    before = shop.path.read_bytes()

    def crash(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, crash)
        with pytest.raises(OSError, match="No space"):
            await store.save(shop.token("two.token."), replaces=first)
        assert shop.path.read_bytes() == before
        assert not list(shop.path.parent.glob(".*"))
    assert await store.save(shop.token("two.token."), replaces=first)


async def test_what_a_killed_writer_left_behind_is_written_over(shop: Shop) -> None:
    left = shop.path.with_name(".session.json.new")
    left.write_text("half a f")
    left.chmod(0o644)
    await shop.store().save(shop.token(), replaces=None)
    assert await value(shop.store()) == "one.token."
    assert not left.exists()
    assert stat.S_IMODE(shop.path.stat().st_mode) == 0o600


async def test_a_full_or_read_only_disk_costs_no_request(
    build: Build, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: str | Path, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    house = build(clock=shop.clock, store=shop.store())
    await house.keeper.start(eager=True)
    first = await house.keeper.token()
    assert await house.keeper.renew(rejected=first) is house.held
    assert house.seen.stores["enter", "failed"] == 2
    assert house.seen.stores["save", "failed"] >= 2


async def test_a_folder_that_went_away_costs_no_request(build: Build, shop: Shop) -> None:
    house = build(clock=shop.clock, store=shop.store())
    first = await house.keeper.token()
    shutil.rmtree(shop.path.parent)
    assert await house.keeper.renew(rejected=first) is house.held
    assert house.seen.stores["save", "failed"] > 0


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_those_who_ask_for_ever(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, hangs = threading.Event(), threading.Event()
    opened = os.open

    def hang(path: str | Path, flags: int, *more: int) -> int:
        if Path(path) == shop.path:
            hangs.set()
            go.wait(20)
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", hang)
    store = shop.store()
    looking = asyncio.create_task(load(store))
    try:
        await asyncio.to_thread(hangs.wait, 5)
        await settle()  # the loop lives
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await enter(store)
    finally:
        go.set()
    assert await looking is None
    async with held(store):
        pass


async def test_closing_does_not_wait_for_a_disk_that_hangs(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    go, hangs, ended = threading.Event(), threading.Event(), []
    opened = os.open

    def hang(*how: Any) -> int:
        hangs.set()
        ended.append(go.wait(20))
        return opened(*how)

    monkeypatch.setattr(os, "open", hang)
    store = shop.store()
    looking = asyncio.create_task(load(store))
    await asyncio.to_thread(hangs.wait, 20)
    await store.close()
    assert ended == []
    go.set()
    await looking


async def test_one_thing_at_a_time_is_done_with_the_disk(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()
    opened = os.open

    def seen(*how: Any) -> int:
        threads.add(threading.current_thread())
        return opened(*how)

    monkeypatch.setattr(os, "open", seen)
    store = shop.store()
    await asyncio.gather(*(store.look("secrets") for _ in range(20)))
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_a_lock_that_is_a_link_is_not_followed(shop: Shop) -> None:
    target = shop.path.with_name("target")
    for name in ("session.json.lock", "session.json.login"):
        shop.path.with_name(name).symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        await shop.store().take_login_turn()
    with pytest.raises(OSError, match="symbolic link"):
        await shop.store().save(shop.token(), replaces=None)
    assert not target.exists()


async def test_a_lock_that_is_never_given_back_fails_the_save_and_not_the_loop(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    store = shop.store()
    await store.save(shop.token(), replaces=None)
    with shop.path.with_name("session.json.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="holds the lock"):
            await store.save(shop.token("two.token."), replaces=shop.token())
        assert await value(store) == "one.token."


def open_leases(path: Path) -> int:
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return names.count(f"{path}.lease")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors where Linux lists them")
@pytest.mark.parametrize("turns", [0, 1, 25])
async def test_a_cancelled_waiter_leaves_no_descriptor_behind(shop: Shop, turns: int) -> None:
    holder, other = shop.store(), shop.store()

    async def wait() -> None:
        async with held(other):
            raise AssertionError

    async with held(holder):
        for _ in range(10):
            waiting = asyncio.create_task(wait())
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
        await load(other)  # behind all that its thread had to do
        assert open_leases(shop.path) == 1
    await load(holder)
    assert open_leases(shop.path) == 0


# Processes

HEAD = f"""
import asyncio, sys, time
from pathlib import Path
from proxy.clock import SystemClock
from proxy.core.token import Token
from proxy.session.stores import Binding
from proxy.session.stores.file import FileStore
clock = SystemClock()
binding = Binding({MINE.origin!r}, {MINE.app_id!r}, {MINE.email!r})
store = FileStore(Path(sys.argv[1]), binding=lambda: binding, clock=clock, warn=lambda w: sys.exit(w))
"""
COUNT = """
async def main():
    for _ in range(25):
        while True:
            kept = (await store.look("")).token
            number = int(kept.value.split(".")[1]) if kept else 0
            if await store.save(Token(f"n.{number + 1}.", clock.now(), 600), replaces=kept):
                break
asyncio.run(main())
"""


async def child(script: str, path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HEAD + script, str(path), cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )


async def test_no_save_of_several_processes_is_lost(shop: Shop) -> None:
    children = [await child(COUNT, shop.path) for _ in range(4)]
    assert await asyncio.gather(*(process.wait() for process in children)) == [0] * 4
    shop.clock.wall = json.loads(shop.text)["entries"][MINE.key]["written"]
    assert await value(shop.store()) == "n.100."


async def test_a_token_of_another_process_comes_with_its_age(shop: Shop) -> None:
    shop.clock.wall, shop.clock.steady = 1_800_000_000.0, 7.0
    await shop.store().save(Token("a.b.c", Moment(999_999.0, shop.clock.wall - 60), 600), replaces=None)
    token = await load(shop.store())
    assert token is not None
    assert token.born == Moment(7.0 - 60, shop.clock.wall - 60)
