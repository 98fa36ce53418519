"""Fixtures of all suites that need a proxy; what they are made of is in tests/server/harness.py."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import hypothesis
import pytest

from tests.server.harness import RawUpstream, Running, running_proxy

# An example that takes long tells of the machine, not of the code.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

StartProxy = Callable[..., Awaitable[Running]]


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    """A scripted CardCash on a free port."""
    upstream = RawUpstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def start_proxy(upstream: RawUpstream) -> AsyncIterator[StartProxy]:
    """Start proxies in front of `upstream`, or of `origin=`; settings as environment names without CARDCASH_."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, origin: str | None = None, **settings: str) -> Running:
            return await stack.enter_async_context(running_proxy(origin or upstream.url, **settings))

        yield start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Running:
    """A proxy with default settings in front of `upstream`."""
    return await start_proxy()
