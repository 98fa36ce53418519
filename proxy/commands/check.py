"""`cardcash-proxy check`: whether the configuration can be used, and what is in effect."""

from __future__ import annotations

import argparse

from proxy.commands.flags import add_settings as add_flags
from proxy.commands.flags import load
from proxy.process import OK, BadUsage, complain

__all__ = ["add_flags", "run"]


def run(options: argparse.Namespace) -> int:
    """Load the settings, look at the store, print them with where each comes from."""
    loaded = load(options)
    from proxy.core.store_url import StoreUrl
    from proxy.session.stores import StoreUnusable
    from proxy.session.stores.factory import check_store
    from proxy.settings import describe

    store = loaded.settings.session.store
    try:
        check_store(store)
    except StoreUnusable as error:
        raise BadUsage(str(error)) from None
    if isinstance(store, StoreUrl) and store.shows_password:
        complain("warning: session.store: the password of Redis travels openly; use rediss://")
    print(describe(loaded.settings, loaded.where), end="")
    return OK
