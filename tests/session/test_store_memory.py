"""`memory://` passes the contract of all stores."""

from __future__ import annotations

import pytest

from proxy.session.stores.memory import MemoryStore
from tests.session import store_contract
from tests.session.fakes import FakeClock


class TestMemoryStore(store_contract.StoreContract):
    @pytest.fixture
    def make(self, clock: FakeClock) -> store_contract.Make:
        return MemoryStore(clock).another
