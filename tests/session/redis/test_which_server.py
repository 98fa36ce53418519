"""Which Redis is asked next: seeds, nodes that a cluster points to, and masters that Sentinels name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from proxy.core.secret import Secret
from proxy.session.stores.redis.client import RedisUnavailable
from proxy.session.stores.redis.connection import RedisError
from proxy.session.stores.redis.diagnosis import failure_of
from proxy.session.stores.redis.servers import NoMaster, Servers
from tests.session.redis.conftest import Build
from tests.session.redis.raw import answering
from tests.session.redis.replicas import place_of
from tests.session.redis.servers import free_port

A, B, C, X = (("a", 1), ("b", 2), ("c", 3), ("x", 9))


def seeds() -> Servers:
    return Servers(place_of("redis://a:1,b:2,c:3"))


async def test_seeds_are_asked_in_turn_each_until_it_is_lost() -> None:
    servers = seeds()
    for address in (A, B, C, A, B):
        assert [await servers.find(), await servers.find()] == [address, address]
        servers.lost(address)
        assert servers.current is None


async def test_a_node_that_a_cluster_points_to_is_asked_until_it_is_lost_then_the_seed_that_led_to_it() -> None:
    servers = seeds()
    servers.lost(await servers.find())
    assert await servers.find() == B
    servers.moved(X)
    assert await servers.find() == X
    servers.lost(X)
    assert await servers.find() == B


async def test_who_finds_a_server_lost_that_is_asked_no_longer_changes_nothing() -> None:
    servers = seeds()
    servers.lost(await servers.find())
    assert await servers.find() == B
    servers.lost(A)
    assert servers.current == B


def test_one_host_is_alone() -> None:
    assert Servers(place_of("redis://a:1")).is_alone
    assert not seeds().is_alone


#: What a Sentinel answers that knows `A` as the master, or none.
NAMES_A, NAMES_NONE = b"*2\r\n$1\r\na\r\n$1\r\n1\r\n", b"*-1\r\n"


class Sentinels:
    """Sentinels that say what a test wants them to, and nothing else of what they are told."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        #: What they were asked, by their numbers.
        self.asked: list[tuple[int, list[bytes]]] = []

    async def say(self, *answers: bytes | None, rest: str = "", user: str = "") -> Servers:
        """Return who asks so many of them; None: it is not there."""
        ports = [free_port() if said is None else await self._one(n, said) for n, said in enumerate(answers)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        place = place_of(f"redis+sentinel://{user}{hosts}/main{rest}")
        return Servers(replace(place, sentinel_password=Secret("theirs")) if user else place)

    async def _one(self, number: int, said: bytes) -> int:
        def answer(words: list[bytes]) -> bytes:
            self.asked.append((number, words))
            return b"+OK\r\n" if words[0] == b"AUTH" else said

        return await self._stack.enter_async_context(answering(answer))

    def turns(self) -> list[int]:
        """Who was asked since the last time, in order."""
        turns, self.asked = [number for number, _ in self.asked], []
        return turns


@pytest.fixture
async def sentinels() -> AsyncIterator[Sentinels]:
    async with AsyncExitStack() as stack:
        yield Sentinels(stack)


async def test_sentinels_are_asked_in_turn_until_one_knows_a_master_and_it_is_asked_last_when_that_is_lost(
    sentinels: Sentinels,
) -> None:
    servers = await sentinels.say(None, NAMES_NONE, NAMES_A, NAMES_A)
    assert (await servers.find(), sentinels.turns()) == (A, [1, 2])
    assert (await servers.find(), sentinels.turns()) == (A, [])
    servers.lost(A)
    assert (await servers.find(), sentinels.turns()) == (A, [1, 3])


@pytest.mark.parametrize(
    ("answers", "error"), [((None, NAMES_NONE), NoMaster), ((NAMES_NONE, None), OSError), ((NAMES_NONE,), NoMaster)]
)
async def test_without_a_master_the_last_sentinel_says_why(
    sentinels: Sentinels, answers: tuple[bytes | None, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await (await sentinels.say(*answers)).find()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"-NOAUTH hush\r\n", "a Sentinel wants a password; write it into session.store_sentinel_password or its file"),
        (
            b"-NOPERM hush\r\n",
            "a Sentinel does not permit it; grant its default user +sentinel|get-master-addr-by-name",
        ),
        (b"-ERR unknown command\r\n", "what session.store names as a Sentinel is none"),
    ],
)
async def test_what_a_sentinel_refuses_is_told_as_its_own(sentinels: Sentinels, said: bytes, sentence: str) -> None:
    with pytest.raises(RedisError) as caught:
        await (await sentinels.say(said)).find()
    assert failure_of(caught.value).sentence == sentence


async def test_a_master_that_is_gone_is_not_tried_again_because_the_next_sentinel_names_it_too(
    replica: Build, sentinels: Sentinels
) -> None:
    port = b"%d" % free_port()
    names = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
    servers = await sentinels.say(names, names, names)
    with pytest.raises(RedisUnavailable, match="Connection refused"):
        await replica(servers.place).stored()
    assert sentinels.turns() == [0, 1]


async def test_a_sentinel_learns_its_own_password_and_nothing_of_redis(sentinels: Sentinels) -> None:
    servers = await sentinels.say(NAMES_A, rest="/3", user="me:of-redis@")
    assert await servers.find() == A
    question = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"main"]
    assert sentinels.asked == [(0, [b"AUTH", b"theirs"]), (0, question)]
