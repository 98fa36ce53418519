"""What a replica does while Redis is down, refuses, hangs or says no: it is told why in our words, and waits for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from proxy.session.stores import Right, Turn
from proxy.session.stores.redis.client import RedisUnavailable, Urgency
from proxy.session.stores.redis.diagnosis import GRANTS, FailureKind
from tests.server.harness import until
from tests.session.redis.conftest import Build
from tests.session.redis.raw import answering
from tests.session.redis.relay import relay_to
from tests.session.redis.replicas import MINE, SECRETS, RedisClock, Replica, as_somebody, place_of
from tests.session.redis.servers import Cluster, Server, free_port, wait_for

HUSH = "hush-hush"


async def trouble(one: Replica, urgency: Urgency = Urgency.LOOK) -> RedisUnavailable:
    """Look, or ask for what requests or renewals wait for; it must fail."""
    with pytest.raises(RedisUnavailable) as caught:
        match urgency:
            case Urgency.LOOK:
                await one.store.look(SECRETS)
            case Urgency.REQUEST:
                await one.store.take_login_turn()
            case Urgency.RENEWAL:
                await one.enters()
    assert HUSH not in f"{caught.value!r} {caught.value} {caught.value.__cause__} {caught.value.__context__}"
    return caught.value


async def comes_back(one: Replica) -> None:
    """Look, as often as it is allowed, until Redis answers."""
    async with asyncio.timeout(6):
        while True:
            try:
                await one.store.look(SECRETS)
                return
            except RedisUnavailable:
                await asyncio.sleep(0.05)


@pytest.fixture
def a_moment_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes long and pauses do not end by themselves, however slow the machine is."""
    monkeypatch.setattr("proxy.session.stores.redis.client.time", SimpleNamespace(monotonic=lambda: 1000.0))


class TestNobodyThere:
    async def test_refused(self, replica: Build) -> None:
        one = replica(f"redis://127.0.0.1:{free_port()}")
        caught = await trouble(one)
        assert (caught.failure.kind, str(caught)) == (FailureKind.DOWN, "Redis cannot be reached: Connection refused")
        assert caught.passes

    async def test_a_name_that_cannot_be_resolved(self, replica: Build) -> None:
        assert "cannot be resolved" in str(await trouble(replica("redis://nobody.invalid")))

    async def test_a_black_hole_costs_a_second(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            relay.hangs = True
            one = replica(f"redis://127.0.0.1:{relay.port}")
            began = time.monotonic()
            assert "did not answer" in str(await trouble(one))
            assert 0.9 < time.monotonic() - began < 2.1

    async def test_a_full_queue_of_connections_costs_a_second(self, replica: Build) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
            assert "did not answer" in str(await trouble(replica(f"redis://127.0.0.1:{sock.getsockname()[1]}")))
            for filler in fillers:
                filler.close()

    async def test_a_stopped_server_costs_a_second_and_is_found_again(self, replica: Build, server: Server) -> None:
        one = replica(server)
        await one.save()
        with server.stopped():
            began = time.monotonic()
            assert "did not answer" in str(await trouble(one))
            assert time.monotonic() - began < 2.1
        await comes_back(one)
        assert await one.stored() == "one.token."

    async def test_a_server_that_comes_back_is_found_within_3_s(
        self, replica: Build, own_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ahead = 0
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
        monkeypatch.setattr("proxy.session.stores.redis.client.time", clock)
        one = replica(own_server)
        await one.save()
        own_server.kill()
        for _ in range(8):
            await trouble(one)
            ahead += 60  # as after a longer outage
        own_server.start()
        began = time.monotonic()
        await comes_back(one)
        assert time.monotonic() - began < 3

    async def test_something_else_answers(self, replica: Build) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(answer, "127.0.0.1", 0)
        one = replica(f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}")
        assert "no Redis" in str(await trouble(one))
        other.close()

    @pytest.mark.parametrize(
        "reply",
        [
            *(b"+OK", b":1", b"$-1", b"*-1", b"*0", b"*1\r\n$4\r\nlook"),
            b"*6\r\n:99999999999999\r\n:0\r\n:0\r\n:0\r\n:0\r\n$0\r\n",
            b"*6\r\n$4\r\nlook\r\n:0\r\n$1\r\nx\r\n:0\r\n:0\r\n$0\r\n",
            b"*6\r\n$4\r\nlook\r\n:0\r\n:0\r\n:0\r\n:0\r\n:99999999999999",
            b"*8\r\n$4\r\nlook\r\n:0\r\n:0\r\n:0\r\n:0\r\n$0\r\n\r\n:99999999999999\r\n$0\r\n",
            b"*8\r\n$4\r\nlook\r\n:0\r\n:0\r\n:0\r\n:0\r\n$0\r\n\r\n$1\r\nx\r\n:99999999999999",
        ],
    )
    async def test_a_redis_whose_scripts_are_not_ours(self, replica: Build, reply: bytes) -> None:
        async with answering(lambda _: reply + b"\r\n") as port:
            one = replica(f"redis://127.0.0.1:{port}")
            assert "not theirs" in str(await trouble(one))
            for ask in (one.store.take_login_turn, one.store.probe):
                with contextlib.suppress(RedisUnavailable):
                    assert await ask() >= 0

    async def test_news_that_it_never_shows_are_none(self, replica: Build) -> None:
        news = b"*7\r\n$4\r\nnews\r\n:0\r\n:0\r\n:0\r\n$0\r\n\r\n$1\r\nx\r\n$1\r\ny\r\n"
        async with answering(lambda _: news) as port:
            assert await replica(f"redis://127.0.0.1:{port}").enters() is Turn.BUSY


class TestSparing:
    """After a failure nobody waits; how long not even a try is made depends on who asks."""

    @pytest.mark.usefixtures("a_moment_lasts")
    async def test_a_request_does_not_wait_for_what_failed_a_moment_ago(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            relay.hangs = True
            one = replica(f"redis://127.0.0.1:{relay.port}")
            await trouble(one)
            for _ in range(100):
                assert "did not answer" in str(await trouble(one, Urgency.REQUEST))
            assert (relay.connections, one.seen.operations["login"]) == (1, 0)

    @pytest.mark.usefixtures("a_moment_lasts")
    async def test_many_at_once_wait_for_the_two_that_are_under_way(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            relay.hangs = True
            one = replica(f"redis://127.0.0.1:{relay.port}")
            await asyncio.gather(*(trouble(one, Urgency.REQUEST) for _ in range(50)))
            assert (relay.connections, one.seen.operations["login"]) == (2, 2)

    async def test_whoever_gives_up_waiting_has_found_out_for_all(
        self, replica: Build, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr("proxy.session.stores.redis.client.time", clock)
        async with relay_to(server.port) as relay:
            relay.hangs = True
            one = replica(f"redis://127.0.0.1:{relay.port}")
            for connections, waited in ((1, 0.1), (2, 0.5)):  # half a second is what a request waits for a look
                looking = asyncio.create_task(one.store.look(SECRETS))
                await until(lambda: relay.connections == connections)  # noqa: B023
                now += waited
                looking.cancel()
                await asyncio.wait({looking})
            assert "did not answer" in str(await trouble(one, Urgency.REQUEST))
            assert one.seen.operations["login"] == 0

    async def test_a_renewal_tries_again_within_half_a_second(self, replica: Build) -> None:
        one = replica(f"redis://127.0.0.1:{free_port()}")
        with pytest.raises(RedisUnavailable):
            await one.enters()
        tried = one.seen.operations["enter"]
        began = time.monotonic()
        while one.seen.operations["enter"] == tried:
            with pytest.raises(RedisUnavailable):
                await one.enters()
            await asyncio.sleep(0.01)
        assert 0.05 < time.monotonic() - began < 0.8

    async def test_the_pause_for_requests_grows_to_10_s(self, replica: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr("proxy.session.stores.redis.client.time.monotonic", lambda: now)
        one = replica(f"redis://127.0.0.1:{free_port()}")
        pauses = []
        for _ in range(6):
            await trouble(one, Urgency.REQUEST)
            tried = one.seen.operations["login"]
            began = now
            while one.seen.operations["login"] == tried:
                now += 0.5
                await trouble(one, Urgency.REQUEST)
            pauses.append(now - began)
        assert pauses == [1, 2, 4, 8, 10, 10]

    async def test_an_answer_ends_it_for_all(
        self, replica: Build, own_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: now)
        monkeypatch.setattr("proxy.session.stores.redis.client.time", clock)
        one = replica(own_server)
        own_server.kill()
        for _ in range(3):
            await trouble(one)
            now += 60
        await trouble(one)
        own_server.start()
        now += 2  # longer than a look is spared, not than a request is
        assert "Connection refused" in str(await trouble(one, Urgency.REQUEST))
        await one.store.look(SECRETS)
        assert await one.store.take_login_turn()
        own_server.kill()
        for tried in (2, 3):  # the pause is the first one again
            await trouble(one, Urgency.REQUEST)
            assert one.seen.operations["login"] == tried
            now += 1


class TestItSaysNo:
    @pytest.fixture
    def restricted(self, server: Server) -> Iterator[Callable[..., None]]:
        """A user `me` with some rights."""

        def with_rights(*rights: str) -> None:
            server.command("ACL", "SETUSER", "me", "reset", "on", f">{HUSH}", *rights)

        yield with_rights
        server.command("ACL", "DELUSER", "me")

    def known(self, server: Server, password: str = HUSH) -> str:
        return f"redis://me:{password}@127.0.0.1:{server.port}"

    async def test_it_wants_a_password(self, replica: Build, tmp_path: Path) -> None:
        guarded = Server(tmp_path / "guarded", "--requirepass", HUSH)
        guarded.login = {"password": HUSH}
        guarded.start()
        # Redis cuts off who says a lot before it is known: a renewal has more words than a look.
        for urgency in (Urgency.RENEWAL, Urgency.LOOK):
            caught = await trouble(replica(guarded), urgency)
            assert (caught.failure.kind, "wants a password" in str(caught)) == (FailureKind.DENIED, True)
        one = replica(f"redis://:{HUSH}@127.0.0.1:{guarded.port}")
        assert await one.save()
        guarded.kill()

    async def test_a_wrong_password(self, replica: Build, server: Server) -> None:
        caught = await trouble(replica(self.known(server, f"{HUSH}-not")))
        assert (caught.failure.kind, "refuses the user or password" in str(caught)) == (FailureKind.DENIED, True)
        assert not caught.passes

    async def test_a_password_where_there_is_none(self, replica: Build, server: Server) -> None:
        assert "user or password" in str(await trouble(replica(f"redis://:{HUSH}@127.0.0.1:{server.port}")))

    async def test_who_is_denied_does_not_hammer(self, replica: Build, server: Server) -> None:
        one = replica(self.known(server, f"{HUSH}-not"))
        await trouble(one)
        for urgency in (*Urgency, Urgency.LOOK):
            await trouble(one, urgency)
        assert one.seen.operations.total() == 1

    async def test_a_password_that_changes_connects_anew_at_once(
        self, replica: Build, server: Server, restricted: Callable[..., None]
    ) -> None:
        restricted("~*", "+@all")
        one = replica(self.known(server, f"{HUSH}-not"))
        await trouble(one)
        one.place = as_somebody(one.place, "me", HUSH)
        assert await one.save()

    async def test_a_right_that_is_missing_is_named(
        self, replica: Build, server: Server, restricted: Callable[..., None]
    ) -> None:
        restricted("~cardcash:*", "+evalsha", "+eval", "+time")
        caught = await trouble(replica(self.known(server)))
        assert caught.failure.kind is FailureKind.DENIED
        assert "grant the user" in str(caught)
        assert "+hmget" in str(caught)
        assert "me" not in str(caught).split()

    @pytest.mark.parametrize("right", ["hmget", "hset", "pttl", "pexpire", "time", "evalsha"])
    async def test_no_single_right_is_done_without(
        self, replica: Build, server: Server, restricted: Callable[..., None], right: str
    ) -> None:
        restricted("~cardcash:*", "-@all", *GRANTS.split(), f"-{right}")
        with pytest.raises(RedisUnavailable, match="grant the user"):
            await replica(self.known(server)).enters()

    async def test_other_keys_may_be_forbidden(
        self, replica: Build, server: Server, restricted: Callable[..., None]
    ) -> None:
        restricted("~team:*", "+@all")
        assert "does not permit" in str(await trouble(replica(self.known(server))))
        assert await replica(f"{self.known(server)}?prefix=team:").save()

    async def test_the_rights_that_it_names_suffice_for_everything(
        self, replica: Build, server: Server, restricted: Callable[..., None]
    ) -> None:
        restricted("~cardcash:*", "-@all", *GRANTS.split())
        one = replica(f"{self.known(server)}/2")
        token = one.token()
        assert await one.enters() is Turn.GRANTED
        assert await one.store.extend(Right.RENEWAL)
        assert await one.store.save(token, replaces=None)
        await one.store.leave(Right.RENEWAL, recovered=True)
        await one.store.refuse({"login": "x"}, SECRETS)
        await one.store.failed(0)
        assert await one.store.take_login_turn()
        assert await one.stored() == token.value
        await one.store.refuse({}, SECRETS)
        await one.store.end_pause()
        assert await one.store.probe() > 0

    def test_operators_are_told_of_the_same_rights(self) -> None:
        assert f"~cardcash:* -@all {GRANTS}\n" in Path("config/README.md").read_text()

    async def test_out_of_memory_can_be_read_but_not_written(self, replica: Build, server: Server) -> None:
        one = replica(server)
        token = one.token()
        await one.store.save(token, replaces=None)
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisUnavailable, match="out of memory") as caught:
            await one.save("two.token.", replaces=token)
        assert caught.value.failure.kind is FailureKind.REFUSED
        assert caught.value.refuses
        assert await one.stored() == "one.token."
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert await one.save("two.token.", replaces=token)
        assert one.seen.reconnects == 0

    async def test_too_few_replicas_to_write_to(self, replica: Build, server: Server) -> None:
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")
        one = replica(server)
        with pytest.raises(RedisUnavailable, match="too few replicas"):
            await one.save()
        assert await one.stored() is None

    async def test_a_server_that_cannot_write_its_snapshots(self, replica: Build, own_server: Server) -> None:
        one = replica(own_server)
        token = one.token()
        await one.store.save(token, replaces=None)
        folder = own_server.folder / "gone"
        folder.mkdir()
        own_server.command("CONFIG", "SET", "dir", str(folder))
        own_server.command("CONFIG", "SET", "save", "3600 1")
        folder.rmdir()
        with own_server.client() as client:
            client.bgsave()
            wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it was written")
        with pytest.raises(RedisUnavailable, match="MISCONF") as caught:
            await one.save("two.token.", replaces=token)
        assert caught.value.failure.kind is FailureKind.REFUSED
        assert await one.stored() == "one.token."
        own_server.command("CONFIG", "SET", "save", "")
        assert await one.save("two.token.", replaces=token)

    async def test_rights_that_are_taken_away_and_given_back(
        self, replica: Build, server: Server, restricted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        restricted("~*", "+@all")
        one = replica(self.known(server))
        await one.save()
        restricted("~*", "+@all", "-hmget", "-evalsha")
        assert (await trouble(one)).failure.kind is FailureKind.DENIED
        restricted("~*", "+@all")
        ahead = SimpleNamespace(monotonic=lambda: time.monotonic() + 11)
        monkeypatch.setattr("proxy.session.stores.redis.client.time", ahead)
        assert await one.stored() == "one.token."

    async def test_no_connection_left(self, replica: Build, own_server: Server) -> None:
        with own_server.client() as client:
            client.ping()
            client.config_set("maxclients", "1")
            assert "maxclients" in str(await trouble(replica(own_server)))

    async def test_a_database_that_is_not_there(self, replica: Build, server: Server) -> None:
        assert "no database of this number" in str(await trouble(replica(f"{server.url}/99")))

    async def test_a_replica_is_told_from_a_master(self, replica: Build, server: Server, tmp_path: Path) -> None:
        server.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        copy = Server(tmp_path / "copy", "--replicaof", f"127.0.0.1 {server.port}").start()
        wait_for(lambda: copy.command("ROLE")[3] == "connected", "no sync")
        one = replica(copy)
        with pytest.raises(RedisUnavailable, match="read-only replica"):
            await one.save()
        both = replica(f"redis://127.0.0.1:{copy.port},127.0.0.1:{server.port}")
        assert await both.save()
        copy.kill()

    async def test_a_replica_without_its_master(self, replica: Build, tmp_path: Path) -> None:
        alone = Server(
            tmp_path / "alone", "--replicaof", f"127.0.0.1 {free_port()}", "--replica-serve-stale-data", "no"
        ).start(until=lambda client: client.role())
        assert "lost its master" in str(await trouble(replica(alone)))
        alone.kill()

    async def test_still_loading(self, replica: Build, own_server: Server) -> None:
        own_server.command("DEBUG", "POPULATE", "3000")
        own_server.command("SAVE")
        own_server.kill()
        slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
        own_server.options += slow
        own_server.start(until=lambda client: client.config_get("port"))
        one = replica(own_server)
        assert "loading" in str(await trouble(one))
        own_server.command("CONFIG", "SET", "key-load-delay", "0")
        await comes_back(one)

    async def test_a_cluster_that_is_down(self, replica: Build, tmp_path: Path) -> None:
        node = Server(tmp_path / "node", "--cluster-enabled", "yes", "--cluster-port", str(free_port())).start()
        assert "cluster is down" in str(await trouble(replica(node)))
        node.kill()

    async def test_a_database_on_a_cluster(self, replica: Build, cluster: Cluster) -> None:
        assert "a cluster has 0 only" in str(await trouble(replica(f"{cluster.url}/1")))


class TestTheWire:
    async def test_a_connection_that_was_closed_when_idle_costs_nothing(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            one = replica(f"redis://127.0.0.1:{relay.port}")
            await one.save()
            server.command("CLIENT", "KILL", "TYPE", "normal")
            assert await one.stored() == "one.token."
            assert one.seen.reconnects == 1

    async def test_connections_that_are_cut_all_the_time_cost_no_more_than_a_retry(
        self, replica: Build, server: Server
    ) -> None:
        one = replica(server)
        token = one.token()
        await one.store.save(token, replaces=None)
        for number in range(50):
            server.command("CLIENT", "KILL", "TYPE", "normal")
            another = one.token(f"{number}.token.")
            assert await one.store.save(another, replaces=token)
            assert await one.stored() == another.value
            token = another

    async def test_a_save_whose_answer_was_lost_is_a_save(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            one = replica(f"redis://127.0.0.1:{relay.port}")
            token = one.token()
            await one.store.save(token, replaces=None)
            relay.cut_after = 0
            assert await one.save("two.token.", replaces=token)
            assert relay.connections == 2
            assert await one.stored() == "two.token."

    @pytest.mark.usefixtures("unhurried", "a_moment_lasts")
    async def test_no_answer_is_taken_for_anothers_however_calls_are_cancelled(
        self, replica: Build, server: Server
    ) -> None:
        async with relay_to(server.port) as relay:
            relay.delay = 0.002
            url = f"redis://127.0.0.1:{relay.port}"
            one = replica(url)
            bindings = [replace(MINE, email=f"{number}@example.com") for number in range(5)]
            for number, one.binding in enumerate(bindings):
                await one.save(f"{number}.token.")

            async def cancelled(number: int) -> None:
                one.binding = bindings[number % 5]
                with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                    async with asyncio.timeout(0.0005 * (number % 10)):
                        await one.stored()
                        raise TimeoutError

            for number in range(300):
                await cancelled(number)
                if number % 30 == 0:
                    assert await one.stored() == f"{number % 5}.token."

    async def test_at_most_two_connections_are_open(self, replica: Build, server: Server) -> None:
        async with relay_to(server.port) as relay:
            one = replica(f"redis://127.0.0.1:{relay.port}")
            await asyncio.gather(*(one.stored() for _ in range(50)))
            assert relay.connections <= 2

    async def test_it_sends_nothing_but_the_scripts(self, replica: Build, server: Server) -> None:
        server.command("SCRIPT", "FLUSH")
        server.command("CONFIG", "RESETSTAT")
        one = replica(server)
        await one.save()
        await one.stored()
        with server.client() as client:
            assert set(client.info("errorstats")) == {"errorstat_NOSCRIPT"}
        assert 0 < one.seen.slowest < 30

    async def test_scripts_that_redis_has_forgotten_are_sent_again(self, replica: Build, server: Server) -> None:
        one = replica(server)
        await one.save()
        server.command("SCRIPT", "FLUSH")
        assert await one.stored() == "one.token."


def test_a_place_shows_no_password() -> None:
    assert HUSH not in repr(place_of(f"redis://{HUSH}:{HUSH}@a", HUSH))


async def test_a_redis_that_is_busy_is_down_for_a_while(replica: Build, own_server: Server) -> None:
    one = replica(own_server)
    await one.save()
    own_server.command("CONFIG", "SET", "lua-time-limit", "20")
    busy = asyncio.create_task(asyncio.to_thread(_spin, own_server))
    with pytest.raises(RedisUnavailable, match=r"busy with a script|did not answer"):
        while True:
            await one.stored()
    own_server.command("SCRIPT", "KILL")
    await busy
    await comes_back(one)


def _spin(server: Server) -> None:
    with contextlib.suppress(redis.RedisError):
        server.command("EVAL", "while true do end", 0)


async def test_an_evicted_token_is_not_there(replica: Build, own_server: Server) -> None:
    one = replica(own_server)
    await one.save()
    own_server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    with contextlib.suppress(redis.RedisError):
        own_server.command("SET", "other", "x")  # makes room of what may be evicted
    assert await one.stored() is None
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    assert await one.save("two.token.")


async def test_of_two_holders_after_a_pause_of_redis_one_token_wins(
    replica: Build, server: Server, redis_clock: RedisClock
) -> None:
    one, other = replica(server), replica(server)
    base = one.token()
    await one.store.save(base, replaces=None)
    assert await one.enters(base) is Turn.GRANTED
    redis_clock.ahead = 6
    assert await other.enters(base) is Turn.GRANTED
    saved = await asyncio.gather(one.save("mine.token.", replaces=base), other.save("their.token.", replaces=base))
    assert saved.count(True) == 1
    assert await one.stored() == await other.stored() == ("mine.token." if saved[0] else "their.token.")
