"""Sentinel and cluster: the master is found, and found again when it dies, hangs or is told to step down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.core.secret import Secret
from proxy.session.stores import Right, Turn
from proxy.session.stores.redis.client import RedisUnavailable
from proxy.session.stores.redis.diagnosis import FailureKind
from tests.session.redis.conftest import Build
from tests.session.redis.raw import answering
from tests.session.redis.relay import relay_to
from tests.session.redis.replicas import MINE, SECRETS, SOON, again, as_somebody, place_of
from tests.session.redis.servers import Cluster, Sentinels, Server, free_port, wait_for


class TestSentinel:
    async def test_the_master_is_found(self, replica: Build, calm_sentinels: Sentinels) -> None:
        one = replica(calm_sentinels)
        assert await one.save()
        assert one.store.address == f"127.0.0.1:{calm_sentinels.master.port}"
        assert calm_sentinels.master.command("KEYS", "*")

    async def test_no_sentinel_is_there(self, replica: Build) -> None:
        with pytest.raises(RedisUnavailable, match="Connection refused"):
            await replica(f"redis+sentinel://127.0.0.1:{free_port()}/main").stored()

    async def test_a_name_that_they_do_not_know(self, replica: Build, calm_sentinels: Sentinels) -> None:
        with pytest.raises(RedisUnavailable, match="no Sentinel knows"):
            await replica(calm_sentinels.url.replace("/main", "/other")).stored()

    async def test_their_password_is_their_own(self, replica: Build, guarded: Sentinels) -> None:
        with pytest.raises(RedisUnavailable, match=r"wants a password; write it into session\.store_sentinel_password"):
            await replica(guarded).stored()
        place = replace(place_of(guarded.url), sentinel_password=Secret("of-the-sentinels"))
        assert await replica(place).save()

    async def test_a_wrong_password_of_theirs_is_told_and_the_right_one_of_redis_does_not_help(
        self, replica: Build, guarded: Sentinels
    ) -> None:
        place = place_of(guarded.url.replace("//", "//:of-the-sentinels@"))
        for password, sentence in ((None, "wants a password"), (Secret("not-theirs"), "refuses the password")):
            with pytest.raises(
                RedisUnavailable, match=rf"Sentinel {sentence}.*session\.store_sentinel_password"
            ) as caught:
                await replica(replace(place, sentinel_password=password)).stored()
            assert caught.value.failure.kind is FailureKind.DENIED

    async def test_a_wrong_password_of_redis_behind_them_is_one_of_the_url(
        self, replica: Build, guarded: Sentinels
    ) -> None:
        place = replace(place_of(guarded.url), sentinel_password=Secret("of-the-sentinels"))
        with pytest.raises(RedisUnavailable, match=r"Redis refuses the user or password in session\.store$"):
            await replica(as_somebody(place, "me", "not-theirs")).stored()

    async def test_a_sentinel_that_was_cut_off_and_knows_an_old_master_only_is_passed_by(
        self, replica: Build, calm_sentinels: Sentinels
    ) -> None:
        async with answering(lambda _: b"*2\r\n$9\r\n127.0.0.1\r\n$1\r\n1\r\n") as astray:
            one = replica(calm_sentinels.url.replace("//", f"//127.0.0.1:{astray},"))
            assert await one.save()

    async def test_a_master_that_others_call_one_still_but_is_none_is_looked_for_elsewhere(
        self, replica: Build, calm_sentinels: Sentinels
    ) -> None:
        port = next(server.port for server in calm_sentinels.servers if server is not calm_sentinels.master)
        text = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)
        async with answering(lambda _: text) as astray:
            one = replica(calm_sentinels.url.replace("//", f"//127.0.0.1:{astray},"))
            assert await one.save()
            assert one.store.address == f"127.0.0.1:{calm_sentinels.master.port}"

    async def test_a_redis_is_no_sentinel(self, replica: Build, server: Server) -> None:
        with pytest.raises(RedisUnavailable, match="as a Sentinel is none"):
            await replica(f"redis+sentinel://127.0.0.1:{server.port}/main").stored()

    @pytest.mark.parametrize(
        "answer",
        [
            b"*1\r\n$1\r\nx\r\n",
            b"*2\r\n$1\r\nx\r\n$1\r\nx\r\n",
            b":1\r\n",
            b"+OK\r\n",
            b"*2\r\n:99999999999999\r\n:1\r\n",
        ],
    )
    async def test_a_sentinel_that_talks_nonsense_is_none(self, replica: Build, answer: bytes) -> None:
        async with answering(lambda _: answer) as port:
            with pytest.raises(RedisUnavailable, match="no Redis"):
                await replica(f"redis+sentinel://127.0.0.1:{port}/main").stored()


class TestCluster:
    async def test_an_owner_that_is_gone_is_down_until_another_owns_the_slot(
        self, replica: Build, server: Server
    ) -> None:
        dead, here = free_port(), False

        def answer(_: list[bytes]) -> bytes:
            return b"-MOVED 1 127.0.0.1:%d\r\n" % (server.port if here else dead)

        async with answering(answer) as port:
            one = replica(f"redis://127.0.0.1:{port}")
            with pytest.raises(RedisUnavailable, match="Connection refused"):
                await one.stored()
            here = True
            assert await again(one.save) < 3

    @pytest.mark.parametrize("word", [b"MOVED", b"ASK"])
    async def test_nodes_that_point_to_each_other_are_given_up_soon(self, replica: Build, word: bytes) -> None:
        asked, ports = 0, [0, 0]

        def pointing(to: int) -> Callable[[list[bytes]], bytes]:
            def answer(words: list[bytes]) -> bytes:
                nonlocal asked
                asked += 1
                return b"+OK\r\n" if words == [b"ASKING"] else b"-%b 1 :%d\r\n" % (word, ports[to])

            return answer

        async with answering(pointing(1)) as ports[0], answering(pointing(0)) as ports[1]:
            with pytest.raises(RedisUnavailable, match="from one node to the next"):
                await replica(f"redis://127.0.0.1:{ports[0]}").stored()
        assert asked <= 10

    async def test_a_way_from_node_to_node_that_takes_too_long_is_begun_anew(self, replica: Build) -> None:
        asked = 0

        def answer(_: list[bytes]) -> bytes:
            nonlocal asked
            asked += 1
            return b"-MOVED 1 :%d\r\n" % relays[asked % 2].port

        async with answering(answer) as port, relay_to(port) as one, relay_to(port) as other:
            relays = one, other
            one.delay = other.delay = 0.9
            seeds = f"127.0.0.1:{one.port},localhost:{one.port}"
            store = replica(f"redis://{seeds}").store
            with pytest.raises(RedisUnavailable, match="did not answer in time"):
                await store.look(SECRETS)
            assert asked <= 3
            assert store.address == seeds

    @pytest.mark.parametrize("where", [b"127.0.0.1:99999", b"%b:1" % (b"x" * 300), b"..:1", b"\xff:1"])
    async def test_a_node_that_cannot_be_is_not_tried_forever(
        self, replica: Build, server: Server, where: bytes
    ) -> None:
        is_well = False

        def answer(_: list[bytes]) -> bytes:
            return b"-MOVED 1 " + (b"127.0.0.1:%d" % server.port if is_well else where) + b"\r\n"

        async with answering(answer) as port:
            one = replica(f"redis://127.0.0.1:{port}")
            with pytest.raises(RedisUnavailable):
                await one.stored()
            is_well = True
            assert await again(one.save) < 3

    async def test_a_slot_on_its_way_to_a_node_that_is_gone_is_down(self, replica: Build) -> None:
        dead = free_port()
        async with answering(lambda _: b"-ASK 1 127.0.0.1:%d\r\n" % dead) as port:
            with pytest.raises(RedisUnavailable, match="Connection refused"):
                await replica(f"redis://127.0.0.1:{port}").stored()

    async def test_a_node_to_which_a_slot_is_moving_is_told_so_before_each_command(self, replica: Build) -> None:
        asked: list[bytes] = []
        answers = {b"ASKING": b"+OK\r\n", b"EVALSHA": b"-NOSCRIPT No matching script.\r\n", b"EVAL": b":1\r\n"}

        def answer(words: list[bytes]) -> bytes:
            asked.append(words[0])
            return answers[words[0]]

        async with answering(answer) as target, answering(lambda _: b"-ASK 1 127.0.0.1:%d\r\n" % target) as port:
            assert await replica(f"redis://127.0.0.1:{port}").store.extend(Right.LOGIN)
        assert asked == [b"ASKING", b"EVALSHA", b"ASKING", b"EVAL"]

    async def test_a_node_that_does_not_know_its_name_is_where_it_was_asked(self, replica: Build) -> None:
        async with answering(lambda _: b":1\r\n") as target:
            for pointer in (b"-MOVED 1 :%d\r\n", b"-ASK 1 ?:%d\r\n"):
                async with answering(lambda _, pointer=pointer: pointer % target) as port:  # type: ignore[misc]
                    assert await replica(f"redis://127.0.0.1:{port}").store.extend(Right.LOGIN)

    async def test_any_node_leads_to_the_owner(self, replica: Build, cluster: Cluster) -> None:
        for node in cluster.nodes:
            one = replica(node, binding=replace(replica(node).binding, email=f"{node.port}@x.com"))
            assert await one.save()
            assert await one.stored() == "one.token."

    async def test_nodes_that_are_down_are_passed_by(self, replica: Build, cluster: Cluster) -> None:
        dead = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
        one = replica(f"redis://{dead},{cluster.url.partition('//')[2]}")
        assert await one.stored() is None

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    async def test_an_owner_that_falls_is_followed_by_its_replica(
        self, replica: Build, cluster: Cluster, how: str
    ) -> None:
        one, other = replica(cluster), replica(cluster)
        one.binding = other.binding = replace(one.binding, email=f"{how}@x.com")
        base = one.token()
        await one.store.save(base, replaces=None)
        assert await one.enters(base) is Turn.GRANTED
        owner = next(node for node in cluster.nodes if one.store.address == f"127.0.0.1:{node.port}")
        wait_for(lambda: owner.is_copied_to(1), "no sync")
        if how == "killed":
            owner.kill()
        with owner.stopped() if how == "stopped" else contextlib.nullcontext():
            assert await again(lambda: one.save("two.token.", replaces=base)) < SOON
            # One that goes on takes itself for the owner for a moment.
            assert await again(lambda: other.enters(base)) < SOON
            assert await other.enters(base) is Turn.NEWS
        await one.store.leave(Right.RENEWAL)

    async def test_a_slot_that_is_being_moved_and_stays_so_harms_nobody(self, replica: Build, cluster: Cluster) -> None:
        one, other = (replica(cluster, binding=replace(MINE, email="moved@x.com")) for _ in range(2))
        base = one.token()
        assert await one.stored() is None
        source = next(node for node in cluster.nodes if one.store.address == f"127.0.0.1:{node.port}")
        known = set(source.command("KEYS", "*"))
        await one.store.save(base, replaces=None)
        masters = [node for node in cluster.nodes if node.command("ROLE")[0] == "master"]
        target = next(node for node in masters if node is not source)
        (key,) = set(source.command("KEYS", "*")) - known
        slot = source.command("CLUSTER", "KEYSLOT", key)
        ids = {node.port: str(node.command("CLUSTER", "MYID")) for node in (source, target)}
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        try:
            assert await one.enters(base) is Turn.GRANTED
            assert await other.enters(base) is Turn.BUSY
            source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 1000)
            assert await one.store.extend(Right.RENEWAL)
            assert await one.save("two.token.", replaces=base)
            assert await other.enters(base) is Turn.NEWS
            assert await other.store.take_login_turn()
        finally:
            for node in (target, source):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        await again(one.stored)
        assert await other.store.extend(Right.LOGIN)
        assert one.store.address == f"127.0.0.1:{target.port}"


async def test_a_server_with_tls_is_reached_as_it_proves_to_be(replica: Build, tls_server: Server) -> None:
    assert tls_server.tls is not None
    tls_server.command("FLUSHALL")
    with pytest.raises(RedisUnavailable, match="certificate of Redis is not accepted"):
        await replica(tls_server).stored()
    assert await replica(replace(place_of(tls_server.url), tls=tls_server.tls.context())).save()


async def test_a_certificate_for_another_name_is_not_accepted(replica: Build, tls_server: Server) -> None:
    assert tls_server.tls is not None
    place = replace(place_of(tls_server.url.replace("127.0.0.1", "127.0.0.2")), tls=tls_server.tls.context())
    with pytest.raises(RedisUnavailable, match=r"certificate of Redis is not accepted|Connection refused"):
        await replica(place).stored()


async def test_tls_and_none_do_not_understand_each_other(replica: Build, server: Server, tls_server: Server) -> None:
    with pytest.raises(RedisUnavailable):
        await replica(tls_server.url.replace("rediss", "redis")).stored()
    with pytest.raises(RedisUnavailable):
        await replica(server.url.replace("redis", "rediss")).stored()


async def test_a_server_may_want_a_certificate_too(replica: Build, tls_server: Server) -> None:
    assert tls_server.tls is not None
    with tls_server.client() as client:
        client.config_set("tls-auth-clients", "yes")
        try:
            with pytest.raises(RedisUnavailable):
                await replica(replace(place_of(tls_server.url), tls=tls_server.tls.context())).stored()
            context = tls_server.tls.context(as_client=True)
            assert await replica(replace(place_of(tls_server.url), tls=context)).stored() in {None, "one.token."}
        finally:
            client.config_set("tls-auth-clients", "no")
