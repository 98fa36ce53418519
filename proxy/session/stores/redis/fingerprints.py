"""Slow salted hashes of the secrets that a refusal is about: what is stored must be no help in guessing a password."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os


class Fingerprints:
    """Makes and compares them, in a thread: each takes 50 ms and 16 MiB. For one event loop."""

    def __init__(self) -> None:
        self._compared = ("", "", False)
        # One thread at a time, and one comparison for all who ask: it is held over a hash.
        self._comparing = asyncio.Lock()

    async def of(self, secrets: str) -> str:
        """Make one."""
        return await asyncio.to_thread(_hashed, secrets, os.urandom(16))

    async def is_of(self, fingerprint: str, secrets: str) -> bool:
        """Say whether it is of these secrets; the last verdict is remembered, since it is asked for every second."""
        async with self._comparing:
            if self._compared[:2] != (fingerprint, secrets):
                self._compared = (fingerprint, secrets, await asyncio.to_thread(_is_hash_of, fingerprint, secrets))
            return self._compared[2]


def _hashed(secrets: str, salt: bytes) -> str:
    return f"{salt.hex()}:{hashlib.scrypt(secrets.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


def _is_hash_of(fingerprint: str, secrets: str) -> bool:
    try:
        salt = bytes.fromhex(fingerprint.partition(":")[0])
    except ValueError:
        return False
    return hmac.compare_digest(_hashed(secrets, salt).encode(), fingerprint.encode())
