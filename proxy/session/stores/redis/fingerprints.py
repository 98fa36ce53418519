"""Slow salted hashes of the secrets that a refusal is about: what is stored must be no help in guessing a password."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Iterable


class Fingerprints:
    """Makes and compares them, in a thread: each takes 50 ms and 16 MiB. For one event loop."""

    def __init__(self) -> None:
        #: The last verdicts, since they are asked for every second.
        self._compared: dict[tuple[str, str], bool] = {}
        # One thread at a time, and one comparison for all who ask: it is held over a hash.
        self._comparing = asyncio.Lock()

    async def of(self, secrets: str) -> str:
        """Make one."""
        return await asyncio.to_thread(_hashed, secrets, os.urandom(16))

    async def find(self, fingerprints: Iterable[str], secrets: str) -> str | None:
        """Return the one that is of these secrets."""
        async with self._comparing:
            for fingerprint in fingerprints:
                if (fingerprint, secrets) not in self._compared:
                    self._compared = dict([*self._compared.items()][-7:])
                    is_it = await asyncio.to_thread(_is_hash_of, fingerprint, secrets)
                    self._compared[fingerprint, secrets] = is_it
                if self._compared[fingerprint, secrets]:
                    return fingerprint
        return None


def _hashed(secrets: str, salt: bytes) -> str:
    return f"{salt.hex()}:{hashlib.scrypt(secrets.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


def _is_hash_of(fingerprint: str, secrets: str) -> bool:
    try:
        salt = bytes.fromhex(fingerprint.partition(":")[0])
    except ValueError:
        return False
    return hmac.compare_digest(_hashed(secrets, salt).encode(), fingerprint.encode())
