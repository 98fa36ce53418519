"""What Redis may see of a session: names that tell nothing, tags, and entries that are encrypted and authenticated.

Authentication matters as much as secrecy: whoever could plant a token would have all replicas act in his session.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.core.secret import Secret
from proxy.session.stores import Binding

#: The first byte of all that is sealed, and part of what is authenticated.
_FORMAT: Final = b"\x01"
_NONCE: Final = 12
#: So many bytes at its beginning are never the same twice.
NAME: Final = len(_FORMAT) + _NONCE
#: Made by the key's owner and by nobody else, so all replicas must use the same; what is guessed costs a scrypt each.
_SALT_OF_APP: Final = b"cardcash-proxy session.store app_id"
_SALT_OF_SECRET: Final = b"cardcash-proxy session.store secret"


class Vault:
    """Names, tags and encryption for one `Binding` and the secrets of one moment. Immutable, safe for any use."""

    def __init__(self, binding: Binding, app_key: bytes, entry_keys: Sequence[bytes]) -> None:
        self._tag_key = _sub_key(app_key, b"tag")
        self._ciphers = [AESGCM(_sub_key(key, b"entry")) for key in entry_keys]
        #: 32 hexadecimal digits in the names of all its keys: without the application id nobody can tell whose it is.
        self.id = hmac.digest(_sub_key(app_key, b"id"), binding.key.encode(), "sha256")[:16].hex()

    def tag(self, value: str) -> str:
        """Return what stands for a token's value where two are compared: a ciphertext differs each time."""
        return hmac.digest(self._tag_key, value.encode(), "sha256")[:16].hex()

    def seal(self, what: str, plain: bytes) -> bytes:
        """Encrypt with the first secret; `what` says what it is, and it opens as nothing else."""
        nonce = os.urandom(_NONCE)
        return _FORMAT + nonce + self._ciphers[0].encrypt(nonce, plain, self._about(what))

    def unseal(self, what: str, sealed: bytes) -> bytes | None:
        """Decrypt with any of the secrets; None for what is not ours, was changed, or is of another binding."""
        if not sealed.startswith(_FORMAT) or len(sealed) <= NAME:
            return None
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[len(_FORMAT) : NAME], sealed[NAME:], self._about(what))
            except InvalidTag:
                continue
        return None

    def _about(self, what: str) -> bytes:
        return b"/".join((_FORMAT, self.id.encode(), what.encode()))


class Vaults:
    """Makes vaults, and keeps the keys of the last one: each takes 50 to 100 ms of a thread. For one event loop."""

    def __init__(self) -> None:
        #: Tasks: whoever gives up waiting for one leaves it to the next who needs it.
        self._keys: dict[bytes, list[tuple[Secret, asyncio.Task[bytes]]]] = {}

    async def vault(self, binding: Binding, secrets: tuple[Secret, ...]) -> Vault:
        """Return the vault of a binding; `secrets` are those of `session.store_secret`, none: the application id is.

        Names and tags depend on the application id alone, so that replicas meet while the secrets are being changed.
        """
        (app_key,) = await self._derived((Secret(binding.app_id),), _SALT_OF_APP)
        entry_keys = await self._derived(secrets, _SALT_OF_SECRET)
        return Vault(binding, app_key, entry_keys or [app_key])

    async def _derived(self, secrets: tuple[Secret, ...], salt: bytes) -> list[bytes]:
        known = self._keys.get(salt, [])
        wanted = self._keys[salt] = []
        for secret in secrets:
            task = next((task for other, task in known if other == secret), None)
            wanted.append((secret, task or asyncio.create_task(asyncio.to_thread(_scrypt, secret, salt))))
            await asyncio.shield(wanted[-1][1])  # one after the other: each takes 16 MiB meanwhile
        return [await task for _, task in wanted]


def _scrypt(secret: Secret, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.reveal().encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


def _sub_key(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose, "sha256")
