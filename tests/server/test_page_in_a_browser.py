"""The page for people in a real Chromium: Debian's, driven by Playwright; skipped where there is none."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, async_playwright

from proxy.server.page import POLICY, render
from tests.server.harness import OK, REJECTION, RawUpstream, Running, running_proxy, until
from tests.server.test_page import FAILING, FAILURE, NOON, OUTAGE, status

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian's package of that name)"),
    pytest.mark.asyncio(loop_scope="module"),
]

LONG = "CardCash refused the application id with 400; check `app_id`, then run `cardcash-proxy session renew`." * 2
RENEWALS = [
    {"time": NOON, "reason": "credentials", "result": "login_refused", "source": "session", "seconds": 0.12}
] * 20
PROCESSES = [
    {"worker": number, "pid": 4000000 + number, "state": "silent", "since": NOON, "restarts": 1000, "requests": 10**9,
     "requests_in_flight": 1000, "memory_mb": 1000.0}
    for number in range(4)
]  # fmt: skip
STATES: dict[str, dict[str, Any]] = {
    "fresh": status(traffic={**FAILING, "errors": [0]}, recent_renewals=RENEWALS),
    "in the window": status({"state": "stale", "expires_in_seconds": 60.0}),
    "outage": status(OUTAGE, recent_failures=[FAILURE], traffic=FAILING),
    "refused": status({"refused": ["app_id"], "advice": LONG}, recent_failures=[{**FAILURE, "sentence": LONG}]),
    "lost login": status({"identity": None, "identity_lost": True}, traffic=FAILING),
    "several": status(
        processes=PROCESSES,
        store={"kind": "rediss", "host": "a" * 70 + ".example:6379", "up": False, "trouble": None},
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Chromium's own sandbox needs a user that is not root.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


class Tab:
    """A page, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        page.on("console", lambda said: self.troubles.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", self._asked)
        self.asked: set[str] = set()

    def _asked(self, request: Any) -> None:
        self.asked.add(re.sub("^(https?://[^/]+).*", r"\1", request.url))


Open = Callable[..., Awaitable[Tab]]


@pytest_asyncio.fixture(loop_scope="module")
async def open_tab(browser: Browser) -> AsyncIterator[Open]:
    """Open a URL in a window of its own, whose clock is the test's."""
    async with AsyncExitStack() as stack:

        async def open_tab(url: str, **options: Any) -> Tab:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            tab = Tab(await context.new_page())
            await tab.page.clock.install()
            await tab.page.goto(url)
            return tab

        yield open_tab


class Stage:
    """An admin port that shows any status, and tabs of a phone's width that look at it; made once, since each is slow."""

    def __init__(self, browser: Browser, stack: AsyncExitStack) -> None:
        self._browser, self._stack = browser, stack
        self._told: dict[str, Any] = {}
        self._tabs: dict[str, Tab] = {}
        self.origin = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._page)
        server = await self._stack.enter_async_context(TestServer(app))
        self.origin = str(server.make_url("/")).rstrip("/")

    async def _page(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY}
        return web.Response(text=render(self._told, version="1"), content_type="text/html", headers=headers)

    async def show(self, told: dict[str, Any], scheme: str) -> Tab:
        self._told = told
        if scheme not in self._tabs:
            options: Any = {"viewport": {"width": 360, "height": 800}, "color_scheme": scheme}
            self._tabs[scheme] = Tab(await self._browser.new_page(**options))
        tab = self._tabs[scheme]
        tab.troubles.clear()
        tab.asked.clear()
        await tab.page.goto(self.origin)
        return tab


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        stage = Stage(browser, stack)
        await stage.start()
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def cardcash() -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def shown(cardcash: RawUpstream) -> AsyncIterator[Running]:
    async with running_proxy(cardcash.url) as proxy:
        yield proxy


def page_of(proxy: Running) -> str:
    return f"http://127.0.0.1:{proxy.admin_port}/"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_every_state_it_fits_a_phone_and_the_browser_has_no_complaint(
    stage: Stage, state: str, scheme: str
) -> None:
    tab = await stage.show(STATES[state], scheme)
    widths = await tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths == [360, 360]
    assert await tab.page.locator("h1").is_visible()
    # A style that the policy forbids is not applied.
    colour = await tab.page.evaluate("getComputedStyle(document.querySelector('.banner')).backgroundColor")
    assert colour in ("rgb(26, 127, 55)", "rgb(138, 90, 0)", "rgb(179, 32, 44)")
    assert tab.troubles == []
    assert tab.asked == {stage.origin}


#: Contrast of all that is written, by the formula of WCAG 2.1, against the first background that is not transparent.
CONTRAST = """() => {
const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255; return v <= .03928 ? v / 12.92 :
  ((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b };
const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };
return [...document.querySelectorAll('body *')].filter(e => e.offsetParent && [...e.childNodes].some(n =>
  n.nodeType === 3 && n.data.trim())).map(e => { const a = lum(getComputedStyle(e).color), b = lum(back(e));
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent] }).filter(([c]) => c < 4.5) }"""


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_that_is_written_can_be_read(stage: Stage, state: str, scheme: str) -> None:
    tab = await stage.show(STATES[state], scheme)
    assert await tab.page.evaluate(CONTRAST) == []


async def test_it_changes_without_being_loaded_again(cardcash: RawUpstream, shown: Running, open_tab: Open) -> None:
    await shown.ask("GET /a")
    tab = await open_tab(page_of(shown))
    await tab.page.evaluate("window.is_the_same = true")
    renewals = tab.page.locator("table").first.locator("tbody tr")
    assert await renewals.count() == 1
    cardcash.answers += [REJECTION, OK]
    await shown.ask("GET /a")
    await tab.page.clock.run_for(5000)
    await renewals.nth(1).wait_for(timeout=10_000)
    assert "rejected" in await renewals.first.inner_text()
    assert await tab.page.evaluate("window.is_the_same") is True
    assert tab.troubles == []


async def test_when_the_proxy_is_gone_the_page_does_not_stay_green(cardcash: RawUpstream, open_tab: Open) -> None:
    async with running_proxy(cardcash.url) as proxy:
        tab = await open_tab(page_of(proxy))
        assert not await tab.page.locator(".lost").is_visible()
    await tab.page.clock.run_for(5000)
    await tab.page.locator(".lost").wait_for(timeout=10_000)
    assert await tab.page.title() == "cardcash-proxy: no answer"


async def test_it_can_be_read_without_scripts(shown: Running, open_tab: Open) -> None:
    await until(shown.proxy.keeper.first_renewal_over.is_set)
    tab = await open_tab(page_of(shown), java_script_enabled=False)
    assert "All is well" in await tab.page.inner_text("h1")
    assert await tab.page.locator("svg.life").is_visible()
    assert await tab.page.locator("noscript meta[http-equiv=refresh]").count() == 1


async def test_traffic_is_drawn_once_a_step_is_over(
    cardcash: RawUpstream, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.telemetry.history.STEP", 0.5)
    async with running_proxy(cardcash.url) as proxy, aiohttp.ClientSession() as client:

        async def drawn() -> dict[str, Any]:
            async with client.get(page_of(proxy) + "status") as answer:
                traffic: dict[str, Any] = json.loads(await answer.text())["traffic"]
                return traffic

        await proxy.ask("GET /a")
        async with asyncio.timeout(10):
            while not any((await drawn())["requests"]):
                await proxy.ask("GET /a")
                await asyncio.sleep(0.05)
        tab = await open_tab(page_of(proxy))
        assert await tab.page.locator(".traffic rect").count() >= 1
        assert await tab.page.locator("path.line1").count() == 1
