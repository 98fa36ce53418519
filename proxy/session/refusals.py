"""What CardCash refused ("app_id", "login") and is not tried again: accounts must not be locked out.

A refusal is forgotten when the secrets change or an operator asks, and for nothing else: it outlives a restart, and holds
for all who share the store. Which there are is the keeper's and the store's; here stands what follows from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeGuard

from proxy.core.token import Token
from proxy.session.cardcash_calls import Credentials


def secrets_of(credentials: Credentials) -> str:
    """Everything a refusal may be about, as one text."""
    return json.dumps([credentials.app_id, credentials.email, credentials.password])


def logs_in(credentials: Credentials, refusals: Mapping[str, str]) -> bool:
    """Say whether a renewal would try to log in."""
    return credentials.logs_in and "login" not in refusals


def will_do(shared: Token | None, credentials: Credentials, refusals: Mapping[str, str]) -> TypeGuard[Token]:
    """Say whether another process's token is all that a renewal could bring: with the account, unless it is refused."""
    if shared is None or is_foreign(shared, credentials):
        return False
    return shared.identity is not None or not logs_in(credentials, refusals)


def is_foreign(token: Token, credentials: Credentials) -> bool:
    """Say whether it was made with an application id that is no longer ours."""
    return token.app_id not in ("", credentials.app_id)


def leave_anonymous(token: Token | None, credentials: Credentials, refusals: Mapping[str, str]) -> bool:
    """Say whether a refused login is why a request with `token` goes anonymously.

    With a login configured there is no other reason for it. A refusal that was forgotten proves nothing yet: the mark
    stays until the login that is tried anew has succeeded.
    """
    return "login" in refusals or (token is not None and token.identity is None and credentials.logs_in)
