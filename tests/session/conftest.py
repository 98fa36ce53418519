"""Keepers that are closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.session.fakes import House

Build = Callable[..., House]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    houses: list[House] = []

    def make(**options: object) -> House:
        houses.append(House(**options))  # type: ignore[arg-type]
        return houses[-1]

    yield make
    for house in houses:
        house.calls.gate.set()
        await house.keeper.close()
        assert house.seen.unknown == []


@pytest.fixture
async def house(build: Build) -> House:
    return build()
