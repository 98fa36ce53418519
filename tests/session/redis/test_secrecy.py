"""Redis learns no secret, and nobody who writes to it can plant a token; secrets can be rotated while replicas run."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from proxy.core.secret import Secret
from proxy.core.token import Source, Token
from proxy.session.cardcash_calls import SessionRefused
from proxy.session.stores import Right, Turn
from proxy.session.stores.redis.client import RedisClient
from tests.session.fakes import APP, LOGIN, ME
from tests.session.redis.conftest import Build
from tests.session.redis.relay import relay_to
from tests.session.redis.replicas import MINE, SECRETS, Replica, place_of
from tests.session.redis.servers import Server
from tests.session.redis.test_herd import CardCash, keeper_on


class WrongPassword(CardCash):
    """Refuses the login until the password is right; counts."""

    credentials = LOGIN

    def __init__(self) -> None:
        super().__init__()
        self.logins = 0
        self.is_right = False

    async def login(self, session: Token, *, tries: int, until: float = math.inf) -> Token:
        self.logins += 1
        if not self.is_right:
            raise SessionRefused("login", "Check the login.")
        return replace(session, value=f"login.{self.logins}.", identity=ME, source=Source.LOGIN)


def the_key(server: Server) -> str:
    (key,) = server.command("KEYS", "cardcash:*")
    return str(key)


def change(server: Server, name: str, value: str | bytes | int) -> None:
    server.command("HSET", the_key(server), name, value)


async def test_nothing_that_is_sent_shows_a_token_an_account_or_a_secret(replica: Build, server: Server) -> None:
    async with relay_to(server.port) as relay:
        one = replica(f"redis://127.0.0.1:{relay.port}", "the-store-secret")
        token = one.token("hush.token.", identity="hush@example.com")
        await one.enters()
        await one.store.save(token, replaces=None)
        await one.store.refuse({"login": "the sentence"}, "hush-password")
        await one.store.failed(1)
        await one.store.take_login_turn()
        await one.store.look("hush-password")
        await one.store.leave(Right.RENEWAL, recovered=True)
        sent = relay.sent.lower()
    assert b"evalsha" in sent
    for secret in (b"hush", b"the sentence", b"store-secret", APP.encode(), b"cardcash.example", b"me@example.com"):
        assert secret not in sent


async def test_who_guesses_the_application_id_needs_a_slow_hash_for_each(replica: Build, server: Server) -> None:
    await replica(server).save()
    assert MINE.key[:32] not in the_key(server)


async def test_a_token_is_encrypted_anew_each_time(replica: Build, server: Server) -> None:
    one = replica(server)
    token = one.token()
    await one.store.save(token, replaces=None)
    with server.client() as client:
        client.connection_pool.connection_kwargs["decode_responses"] = False
        first = client.hget(the_key(server), "blob")
        await one.store.save(token, replaces=token)
        assert client.hget(the_key(server), "blob") != first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("blob", "x"), ("blob", ""), ("blob", "\x01x"), ("blob", "\x01" + "x" * 200)),
        *(("tag", "0" * 32), ("tag", "x" * 5000)),
    ],
)
async def test_what_was_changed_is_not_there_and_is_told_of_once(
    replica: Build, server: Server, name: str, value: str | int
) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    change(server, name, value)
    assert [await other.stored() for _ in range(3)] == [None] * 3
    assert len(other.seen.warnings) == 1
    assert "session.store_secret" in other.seen.warnings[0]
    assert (await other.store.look(SECRETS)).is_foreign
    assert await other.enters() is Turn.GRANTED


@pytest.mark.parametrize(("name", "value"), [("born", "soon"), ("life", "long"), ("life", 10**15)])
async def test_other_nonsense_does_no_harm(replica: Build, server: Server, name: str, value: str | int) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    change(server, name, value)
    assert await other.stored() in {None, "one.token."}
    await other.enters()
    assert await other.save("two.token.", replaces=other.token()) or await other.save("two.token.")
    assert await one.stored() == "two.token."


async def test_what_cannot_be_read_again_is_told_of_again(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    for value in ("one.token.", "two.token."):
        assert await one.enters(forced=True) is Turn.GRANTED
        assert await one.save(value)
        assert await other.stored() == value
        change(server, "blob", "x")
        assert [await other.stored(), await one.stored()] == [None, None]
    assert len(other.seen.warnings) == 2


async def test_a_birth_in_the_future_makes_no_life_longer(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    change(server, "born", 10**16)
    assert (await other.found()).expires_at <= other.clock.steady + 600


async def test_a_token_of_another_binding_cannot_be_put_in_its_place(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server, binding=replace(MINE, email="other@example.com"))
    await one.save()
    mine = the_key(server)
    await other.save("their.token.")
    (theirs,) = set(server.command("KEYS", "*")) - {mine}
    server.command("COPY", theirs, mine, "REPLACE")
    assert await replica(server).stored() is None
    other.binding = one.binding  # not even in front of who has seen it in its own
    assert await other.stored() is None


async def test_what_cannot_be_read_is_replaced_by_whoever_renews_only(replica: Build, server: Server) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    change(server, "blob", "x")
    assert not await other.save("two.token.")
    assert await other.stored() is None
    assert not await other.save("two.token.")
    assert await other.enters() is Turn.GRANTED
    assert await other.save("two.token.")
    assert await replica(server).stored() == "two.token."


@pytest.mark.parametrize("how", ["left", "failed", "lost"])
async def test_who_has_the_right_no_longer_replaces_nothing_that_cannot_be_read(
    replica: Build, server: Server, how: str
) -> None:
    one = replica(server)
    await one.save()
    assert await one.enters(forced=True) is Turn.GRANTED
    if how == "left":
        await one.store.leave(Right.RENEWAL)
    elif how == "failed":
        await one.store.failed(0)
    else:
        server.command("HDEL", the_key(server), "renewal")
        assert not await one.store.extend(Right.RENEWAL)
    change(server, "blob", "x")
    assert await one.stored() is None
    assert not await one.save("two.token.")


@pytest.mark.parametrize("tag", ["é", b"\xff\x00zz"])
async def test_a_tag_of_any_bytes_is_replaced_by_whoever_renews(
    replica: Build, server: Server, tag: str | bytes
) -> None:
    one, other = replica(server), replica(server)
    await one.save()
    change(server, "tag", tag)
    assert await other.enters() is Turn.GRANTED
    assert await other.save("two.token.")
    assert await replica(server).stored() == "two.token."


async def test_a_pause_that_somebody_wrote_is_no_longer_than_any_of_ours(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.store.failed(1)
    for name in ("until", "forget"):
        server.command("HSET", the_key(server), name, 10**16)
    assert (await one.store.look(SECRETS)).paused_for <= 30


async def test_a_key_of_another_type_is_no_token_and_is_replaced_by_whoever_renews_only(
    replica: Build, server: Server
) -> None:
    one = replica(server)
    await one.save()
    key = the_key(server)
    server.command("DEL", key)
    server.command("SET", key, "theirs")
    other, third = replica(server), replica(server)
    assert [await other.stored(), await other.stored()] == [None, None]
    assert len(other.seen.warnings) == 1
    assert not await third.save("three.token.")
    assert server.command("GET", key) == "theirs"
    assert await other.enters() is Turn.GRANTED
    assert await other.save("two.token.")
    assert await one.stored() == await third.stored() == "two.token."
    assert 590_000 < server.command("PTTL", key) <= 600_000


async def test_rights_pause_and_refusals_are_had_though_their_key_is_of_another_type(
    replica: Build, server: Server
) -> None:
    one, other = replica(server), replica(server)
    await one.enters()
    await one.store.take_login_turn()
    await one.store.failed(1)
    await one.store.refuse({"login": "x"}, SECRETS)
    assert await one.enters(forced=True) is Turn.GRANTED
    key = the_key(server)
    server.command("DEL", key)
    server.command("RPUSH", key, "theirs")
    found = await other.store.look(SECRETS)
    assert (found.failures, found.paused_for, found.refusals) == (0, 0, {})
    assert await other.enters() is Turn.GRANTED
    assert await one.enters() is Turn.BUSY
    assert await other.store.take_login_turn()
    assert not await one.store.take_login_turn()
    await other.store.refuse({"login": "y"}, SECRETS)
    await other.store.failed(5)
    found = await one.store.look(SECRETS)
    assert (found.failures, found.refusals) == (1, {"login": "y"})
    assert await one.enters() is Turn.PAUSED


async def test_refusals_that_were_changed_are_not_there(replica: Build, server: Server) -> None:
    one = replica(server)
    await one.store.refuse({"login": "x"}, SECRETS)
    change(server, "refused", "forged")
    found = await one.store.look(SECRETS)
    assert (found.refusals, found.refuses_others) == ({}, True)


class TestRotation:
    async def test_who_has_another_secret_reads_nothing_and_says_so(self, replica: Build, server: Server) -> None:
        one, other = replica(server, "one"), replica(server, "other")
        await one.save()
        assert await other.stored() is None
        assert "another session.store_secret" in other.seen.warnings[0]

    async def test_who_has_none_reads_nothing_of_who_has_one(self, replica: Build, server: Server) -> None:
        await replica(server, "one").save()
        assert await replica(server).stored() is None

    async def test_the_first_encrypts_and_all_decrypt(self, replica: Build, server: Server) -> None:
        old, both, new = replica(server, "old"), replica(server, "new", "old"), replica(server, "new")
        first = old.token()
        await old.store.save(first, replaces=None)
        assert await both.stored() == "one.token."
        assert await both.save("two.token.", replaces=first)
        assert await new.stored() == "two.token."
        assert await old.stored() is None

    async def test_replicas_meet_at_one_right_while_secrets_are_changed(self, replica: Build, server: Server) -> None:
        assert await replica(server, "old").enters() is Turn.GRANTED
        assert await replica(server, "new", "old").enters() is Turn.BUSY

    async def test_a_secret_that_changes_holds_from_the_next_look_on(self, replica: Build, server: Server) -> None:
        one, other = replica(server, "old"), replica(server, "new")
        await other.save()
        assert await one.stored() is None
        one.place = replace(one.place, secrets=(Secret("new"), Secret("old")))
        assert await one.stored() == "one.token."

    async def test_of_replicas_with_other_secrets_each_tries_a_wrong_password_once_until_an_operator_renews(
        self, server: Server
    ) -> None:
        cardcash = WrongPassword()
        keepers = [
            keeper_on(place_of(server.url, secret), cardcash, warn=lambda _: None) for secret in ("one", "other")
        ]
        for _ in range(4):
            for keeper in keepers:
                await keeper.renew(rejected=await keeper.token())
                for each in keepers:
                    await each.catch_up()
        assert cardcash.logins == 2
        await keepers[0].renew_now()
        assert cardcash.logins == 3
        for keeper in keepers:
            assert "login" in keeper.refusals
            await keeper.close()

    async def test_an_operator_ends_the_refusal_of_replicas_with_other_secrets_too(self, server: Server) -> None:
        cardcash = WrongPassword()
        one, other = (keeper_on(place_of(server.url, secret), cardcash, warn=lambda _: None) for secret in "ab")
        await one.token()
        cardcash.is_right = True
        await other.renew_now()
        await one.catch_up()
        assert one.refusals == {}
        await asyncio.gather(one.close(), other.close())

    async def test_an_application_id_that_changes_leads_elsewhere(self, replica: Build, server: Server) -> None:
        one = replica(server)
        await one.save()
        one.binding = replace(MINE, app_id="new-id")
        assert await one.stored() is None
        assert await one.save("new.token.", app_id="new-id")
        assert await one.save("late.token.", replaces=one.token(), app_id=APP)
        assert await one.stored() == "new.token."


async def test_a_repr_shows_nothing(replica: Build, server: Server) -> None:
    one: Replica = replica(f"redis://hush:hush@127.0.0.1:{server.port}", "hush")
    client = RedisClient(lambda: one.place, watch=one.seen)
    assert "hush" not in f"{one.store!r} {one.place!r} {client!r} {client.address} {one.store.address} {one.store.kind}"
