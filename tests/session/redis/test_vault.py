"""What is stored encrypted: read by every replica and version that has the key, and by nobody else."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from proxy.core.secret import Secret
from proxy.session.stores import Binding
from proxy.session.stores.redis.entry import open_refusals, open_token
from proxy.session.stores.redis.vault import Vault, Vaults

BINDING = Binding("https://cardcash.example", "app-id", "Me@example.com")
SECRET, OTHER = Secret("the-store-secret"), Secret("the-next-one")


async def vault(*secrets: Secret) -> Vault:
    return await Vaults().vault(BINDING, secrets)


async def test_what_an_earlier_version_stored_is_read_and_replicas_of_both_meet() -> None:
    ours, without = await vault(SECRET), await vault()
    assert ours.id == without.id == "64109a12d093591fabacd6c941afbc34"
    assert ours.tag("a.b.c") == without.tag("a.b.c") == "df3b580f2ae0fcd5660150c8bbd8250a"
    token = bytes.fromhex("01d0af67bf5fcbe46577e9e01e38e42517c9022fa6e26ebb299f426058aa97")
    refusals = bytes.fromhex("01f0ac20d792c35e321041f13d333303c78bbe3450bc71c1336bb678cf3267")
    assert (ours.unseal("token", token), without.unseal("refusals", refusals)) == (b"{}", b"{}")
    assert (ours.unseal("refusals", token), without.unseal("token", token)) == (None, None)


async def test_what_has_the_key_and_is_no_token_or_no_refusal_of_ours_is_not_there() -> None:
    ours = await vault(SECRET)
    for plain in (b"", b"{", b"[]", b"{}", b'{"stored": 1}', b'{"stored": 1, "value": "a.b.c"}', b"[" * 100_000):
        assert open_token(ours.seal("token", plain), ours) is None
        assert open_refusals(ours.seal("refusals", plain), ours) == {}


@pytest.mark.parametrize("size", range(31))
async def test_what_is_too_short_to_be_sealed_is_not_there(size: int) -> None:
    ours = await vault(SECRET)
    for sealed in (ours.seal("token", b"{}")[:size], b"\x02" * size):
        assert ours.unseal("token", sealed) is None


async def test_a_key_is_made_once_and_again_only_for_a_secret_that_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    scrypt = hashlib.scrypt

    def counted(secret: bytes, **how: Any) -> bytes:
        made.append(secret)
        return scrypt(secret, **how)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    vaults = Vaults()
    for secrets in [(SECRET,), (SECRET,), (OTHER, SECRET), (OTHER, SECRET), (OTHER,)]:
        await vaults.vault(BINDING, secrets)
    assert made == [b"app-id", b"the-store-secret", b"the-next-one"]
