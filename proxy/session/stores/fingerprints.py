"""Slow salted hashes of the secrets that a refusal is about: what is stored must be no help in guessing a password."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
from collections.abc import Iterable


def fingerprint_of(secrets: str, salt: bytes | None = None) -> str:
    """Make one: about 50 ms and 16 MiB, so not in the event loop."""
    salt = os.urandom(16) if salt is None else salt
    return f"{salt.hex()}:{hashlib.scrypt(secrets.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


class Fingerprints:
    """Compares them with secrets. Not in the event loop: a comparison is a hash."""

    def __init__(self) -> None:
        # They are asked for every second.
        self._is_of = functools.lru_cache(maxsize=8)(_is_hash_of)

    def find(self, fingerprints: Iterable[str], secrets: str) -> str | None:
        """Return the one that is of these secrets."""
        return next((one for one in fingerprints if self._is_of(one, secrets)), None)


def _is_hash_of(fingerprint: str, secrets: str) -> bool:
    try:
        salt = bytes.fromhex(fingerprint.partition(":")[0])
    except ValueError:
        return False
    return hmac.compare_digest(fingerprint_of(secrets, salt).encode(), fingerprint.encode())
