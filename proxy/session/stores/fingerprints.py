"""Slow salted hashes of the secrets that a refusal is about: what is stored must be no help in guessing a password."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable


def fingerprint_of(secrets: str, salt: bytes | None = None) -> str:
    """Make one: about 50 ms and 16 MiB, so not in the event loop."""
    salt = os.urandom(16) if salt is None else salt
    return f"{salt.hex()}:{hashlib.scrypt(secrets.encode(), salt=salt, n=2**14, r=8, p=1).hex()}"


class Fingerprints:
    """Compares them with secrets. Not for two threads at a time, and not in the event loop: a comparison is a hash."""

    def __init__(self) -> None:
        #: The last verdicts, since they are asked for every second.
        self._compared: dict[tuple[str, str], bool] = {}

    def find(self, fingerprints: Iterable[str], secrets: str) -> str | None:
        """Return the one that is of these secrets."""
        return next((one for one in fingerprints if self._is_of(one, secrets)), None)

    def _is_of(self, fingerprint: str, secrets: str) -> bool:
        if (fingerprint, secrets) not in self._compared:
            self._compared = dict([*self._compared.items()][-7:])
            self._compared[fingerprint, secrets] = _is_hash_of(fingerprint, secrets)
        return self._compared[fingerprint, secrets]


def _is_hash_of(fingerprint: str, secrets: str) -> bool:
    try:
        salt = bytes.fromhex(fingerprint.partition(":")[0])
    except ValueError:
        return False
    return hmac.compare_digest(fingerprint_of(secrets, salt).encode(), fingerprint.encode())
