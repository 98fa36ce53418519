"""`cardcash-proxy demo`: simulator and proxy in one process, and the life of a session told as it happens."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from proxy.app import Proxy
from proxy.commands.flags import host_port, value_of
from proxy.core.values import Bad, ListenAddress, shown
from proxy.listening import CannotListen, cannot_listen
from proxy.process import BadUsage, Failed
from proxy.running import run_loop, until_signal
from proxy.settings import SettingsError, load_settings
from proxy.simulator import Simulator, SimulatorSettings
from proxy.tasks import Tasks
from proxy.telemetry import logs
from proxy.telemetry.history import Events
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.watch import SessionWatch

#: Short enough that a whole life fits into a minute; the in-band refresh begins before the proxy's own renewal would.
TOKEN_TTL: Final = 20.0
REFRESH_WINDOW: Final = 8.0
#: Seconds between two revocations of all tokens, the way CardCash might do it without a word.
REVOKE_EVERY: Final = 25.0
#: Seconds between two calls of the demo's own little app.
CALL_EVERY: Final = 1.0

#: What CardCash (the simulator) saw.
_SEEN: Final = {
    "session_created": "a session was made, its token lives {expires_in} s",
    "login": "the session was logged in as {email}",
    "token_refreshed": "handed out a new token inside the answer to {method} {path}",
    "token_rejected": "rejected the token of {method} {path} ({cause}) with its 400",
    "order_placed": "order {order_id} was placed, once",
}


@value_of
def _loopback_port(text: str) -> ListenAddress:
    """Take HOST:PORT of this machine alone: whoever reaches the demo uses its session."""
    address = host_port(text)
    if not address.loopback:
        raise Bad(f"{shown(text)} can be reached from other machines, the demo is for this one; write 127.0.0.1:PORT")
    return address


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `demo` takes: where it listens; port 0 for any free one."""
    places = (
        ("--listen", 8080, _loopback_port),
        ("--admin-listen", 8081, host_port),
        ("--simulator-listen", 8090, _loopback_port),
    )
    for flag, port, place in places:
        parser.add_argument(flag, metavar="HOST:PORT", type=place, default=f"127.0.0.1:{port}")


def run(options: argparse.Namespace) -> int:
    """Run the demo until a signal."""
    return run_loop(_announced(options))


async def _announced(options: argparse.Namespace) -> int:
    logs.configure("error", "console", fd=2)
    story = Story()
    story.running = asyncio.ensure_future(_demo(options, story))
    try:
        code = await until_signal(story.running)
    except SettingsError as error:
        raise BadUsage(*error.faults) from None
    if story.lost is not None:
        raise story.lost
    return code


class Story:
    """Prints what happens, with the seconds since the start; the demo ends when nobody can read it."""

    def __init__(self) -> None:
        self.running: asyncio.Future[None] | None = None
        self.lost: OSError | None = None
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """Print a text as it is."""
        try:
            print(text, flush=True)
        except OSError as error:  # what it tells is all that it is for
            self.lost = error
            if self.running is not None:
                self.running.cancel()

    def say(self, who: str, text: str) -> None:
        """Print one line."""
        self.tell(f"[{time.monotonic() - self._began:5.1f} s] {who + ':':9} {text}")

    def cardcash(self, event: str, fields: Mapping[str, object]) -> None:
        """Tell what the simulator saw."""
        with contextlib.suppress(KeyError):
            self.say("CardCash", _SEEN[event].format(**fields))


class _Watch(SessionWatch):
    """Metrics as always, and a line for people besides."""

    def __init__(self, metrics: Metrics, events: Events, story: Story) -> None:
        super().__init__(metrics, events)
        self._story = story

    def renewal(self, reason: str, result: str, fields: Mapping[str, object]) -> None:
        super().renewal(reason, result, fields)
        why = {"start": "at start", "rejected": "the token was rejected", "window": "its time was running out"}
        outcome = "done" if result == "ok" else f"{result}: {fields.get('sentence', '')}"
        self._story.say("proxy", f"renewed the session ({why.get(reason, reason)}): {outcome}")

    def harvest(self, result: str) -> None:
        super().harvest(result)
        if result == "adopted":
            self._story.say("proxy", "harvested that token; no extra call was needed")


async def _demo(options: argparse.Namespace, story: Story) -> None:
    """Run until cancelled."""
    simulator = Simulator(SimulatorSettings(token_ttl=TOKEN_TTL, refresh_window=REFRESH_WINDOW))
    simulator.on_event = story.cardcash
    place = options.simulator_listen
    try:
        await simulator.start(place.host, place.port)
    except OSError as error:
        story.say("demo", f"{cannot_listen(error, place, '--simulator-listen')}; using a free port")
        await simulator.start("127.0.0.1", 0)
    tasks = Tasks()
    try:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await _started(options, simulator, story, stack)
            base, admin = f"http://{proxy.addresses[0]}", f"http://{proxy.admin_addresses[0]}"
            story.tell(_paste(base, admin, simulator.url))
            tasks.spawn(_little_app(base, story), name="demo-app")
            tasks.spawn(_revoke_now_and_then(simulator, story), name="demo-revoke")
            await proxy.run()
    finally:
        await tasks.close()
        await simulator.stop()


async def _started(
    options: argparse.Namespace, simulator: Simulator, story: Story, stack: contextlib.AsyncExitStack
) -> Proxy:
    """Start on the ports that were asked for; on free ones when those are taken."""
    ((email, password),) = simulator.settings.accounts.items()
    environ = {
        "CARDCASH_APP_ID": simulator.settings.app_ids[0],
        "CARDCASH_LOGIN__EMAIL": email,
        "CARDCASH_LOGIN__PASSWORD": password,
        "CARDCASH_UPSTREAM__ORIGIN": simulator.url,
    }
    for listen, admin in ((str(options.listen), str(options.admin_listen)), ("127.0.0.1:0", "127.0.0.1:0")):
        settings = load_settings(environ=environ, flags={"listen": listen, "admin.listen": admin})
        proxy = Proxy(settings, observer=lambda metrics, events: _Watch(metrics, events, story))
        try:
            return await stack.enter_async_context(proxy)
        except CannotListen as taken:
            story.say("demo", f"{taken}; using a free port")
    raise Failed("no free port on 127.0.0.1")


async def _little_app(base: str, story: Story) -> None:
    """Be an internal app that calls all the time and knows nothing of sessions."""
    served = 0
    async with aiohttp.ClientSession(base) as client:
        while True:
            await asyncio.sleep(CALL_EVERY)
            async with client.get("/carts") as answer:
                await answer.read()
                served += 1
                if "session-renewed" in answer.headers.get("Proxy-Status", ""):
                    story.say("proxy", f"repeated GET /carts with the new token; the app saw {answer.status}")
                elif answer.status != 200:
                    story.say("app", f"GET /carts was answered {answer.status}")
            if served % 20 == 0:
                story.say("app", f"{served} calls so far, none of them saw an expiry")


async def _revoke_now_and_then(simulator: Simulator, story: Story) -> None:
    while True:
        await asyncio.sleep(REVOKE_EVERY)
        story.say("demo", "all tokens are revoked now, without a word to the proxy")
        simulator.revoke_all()


def _paste(base: str, admin: str, simulator: str) -> str:
    order = (
        '{"cards":[{"merchantId":1,"faceValue":25,"type":"ecode","quantity":1}],'
        '"payment":{"method":"DRAWDOWN_ACCOUNT"},"shippingDetails":{}}'
    )
    return f"""
cardcash-proxy demo: an internal app talks plain HTTP to {base}, CardCash is simulated at {simulator}.
Paste these into another terminal; no token, no application id, no login:

  curl -s {base}/merchants/buy | head -c 300
  curl -s -X POST {base}/carts -H 'Content-Type: application/json' -d '{{"action":"buy"}}'
  curl -s -X POST '{base}/orders?checkout=condensed' -H 'Content-Type: application/json' -d '{order}'
  curl -s {base}/orders/buy | head -c 300
  curl -s {base}/wallets
  curl -s -X POST {simulator}/_simulator/revoke -d '{{}}'    # revoke every token; the next call still works
  curl -si {base}/carts | head -20                           # ... and says so: session-renewed
  curl -s {admin}/status

What happens, as it happens (Ctrl-C ends it):
"""
