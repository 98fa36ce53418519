"""Fixtures of all suites that need a proxy; what they are made of is in tests/server/harness.py."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import hypothesis
import pytest
from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer
from xdist.remote import Producer

from proxy.simulator import Simulator, SimulatorSettings
from tests.asking import Asking, Listening
from tests.cardcash import CardCash
from tests.server.harness import RawUpstream, Running, running_proxy
from tests.spread import ByFile, longest_first

# An example that takes long tells of the machine, not of the code.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile | None:
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = longest_first(items)


# What is collected is there to the end: no collector of garbage need look at it, not while it grows, and not again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


StartProxy = Callable[..., Awaitable[Running]]
StartSimulator = Callable[..., Awaitable[Simulator]]


@pytest.fixture
def aiohttp_client_cls() -> type[Asking]:
    """What `aiohttp_client` makes."""
    return Asking


@pytest.fixture
async def start_simulator() -> AsyncIterator[StartSimulator]:
    """Start simulators with the settings given, each on a free port."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> Simulator:
            simulator = Simulator(SimulatorSettings(**settings))
            await simulator.start()
            stack.push_async_callback(simulator.stop)
            return simulator

        yield start


@pytest.fixture
async def simulator(start_simulator: StartSimulator) -> Simulator:
    """A simulator whose wallet fills at once."""
    return await start_simulator(wallet_delay=0.0)


@pytest.fixture
async def cardcash(aiohttp_server: AiohttpServer) -> CardCash:
    """A CardCash in plain HTTP on a free port."""
    cardcash = CardCash()
    await cardcash.serve(aiohttp_server)
    return cardcash


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    """A scripted CardCash on a free port."""
    upstream = RawUpstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest.fixture
async def start_proxy(upstream: RawUpstream | CardCash, aiohttp_client: AiohttpClient) -> AsyncIterator[StartProxy]:
    """Start proxies in front of `upstream`, or of `origin=`; settings as environment names without CARDCASH_."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, origin: str | None = None, **settings: str) -> Running:
            proxy = await stack.enter_async_context(running_proxy(origin or upstream.url, **settings))
            if proxy.admin_port:  # else it is a unix socket
                proxy.admin = cast("Asking", await aiohttp_client(Listening(f"http://127.0.0.1:{proxy.admin_port}")))
            return proxy

        yield start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Running:
    """A proxy with default settings in front of `upstream`."""
    return await start_proxy()
