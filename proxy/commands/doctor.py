"""`doctor`: the way to CardCash, step by step, each with the time it took and what to do when it fails.

Owns the steps and how they are shown. It makes connections of its own, shares nothing with a running proxy, and stores
nothing; a refused login counts towards a lock-out, so it is tried once, and `--no-login` leaves it out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import partial
from typing import Final, cast

from proxy import parts
from proxy.clock import SystemClock
from proxy.commands import certificate
from proxy.commands.flags import Parser, add_settings, load
from proxy.core.dialect import RawHeaders, header_value
from proxy.core.errors import UpstreamUnreachable
from proxy.core.failed_calls import advice_for_kind
from proxy.core.store_url import StoreUrl
from proxy.core.token import Token
from proxy.process import FAILED, OK
from proxy.session.cardcash_calls import SessionCalls, SessionOutage, SessionRefused, SessionTokenRejected
from proxy.session.stores import Binding, StoreUnusable
from proxy.session.stores.factory import check_store, open_store
from proxy.settings import Settings
from proxy.store_place import StorePlace
from proxy.upstream import Origin, Response, Upstream, error_kinds
from proxy.upstream.dial import dial
from proxy.watched_files import CaWatch, SecretsWatch

#: Seconds of difference to CardCash's clock that are told of; tokens live for minutes.
_CLOCK_OFF: Final = 30.0
_MEND_REDIS: Final = (
    "see that it runs, that session.store names it (rediss if it speaks TLS), and that we may connect there"
)
_PERMIT_REDIS: Final = "see what it needs under “One session for many machines” in config/README.md"


def add_flags(parser: Parser) -> None:
    """Add the flags of this command."""
    parser.add_argument(
        "--no-login", dest="login", action="store_false", help="leave the login out: a refused one counts"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Make all steps; exit code 0: none failed."""
    return asyncio.run(_diagnosed(load(options).settings, login=options.login, as_json=options.as_json))


class Outcome(StrEnum):
    """How a step ended; only `FAILED` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it is shown; holds no secret. `seconds` is None where nothing was timed."""

    name: str
    outcome: Outcome
    detail: str
    advice: str = ""
    seconds: float | None = None


async def _diagnosed(settings: Settings, *, login: bool, as_json: bool) -> int:
    """Make one step after the other; those that need a failed one are skipped. `login`: try the configured login."""
    patient = _Patient(settings)
    if not as_json:
        _tell(f"from here to {settings.upstream.origin} ({settings.environment})")
    steps = []
    for name, work in (
        ("dns", patient.names),
        ("tcp", patient.connections),
        ("tls", patient.security),
        ("session", patient.session),
        ("clock", patient.compare_clocks),
        ("login", patient.login if login else _left_out),
        ("store", patient.store),
    ):
        steps.append(await _timed(name, work))
        if not as_json:
            _tell(_line(steps[-1]))
    good = all(step.outcome is not Outcome.FAILED for step in steps)
    if as_json:
        rows = [asdict(step) for step in steps]
        _tell(json.dumps({"ok": good, "origin": settings.upstream.origin, "steps": rows}, indent=2))
    return OK if good else FAILED


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # who reads no further may look at the exit code
        print(line, flush=True)


def _line(step: Step) -> str:
    took = "" if step.seconds is None else f"{step.seconds * 1000:.0f} ms"
    line = f"{step.outcome:8} {step.name:8} {took:>8}  {step.detail}"
    return f"{line}\n{'':27}→ {step.advice}" if step.advice else line


async def _timed(name: str, work: Callable[[], Awaitable[Step]]) -> Step:
    began = time.perf_counter()
    try:
        step = await work()
    except (SessionRefused, StoreUnusable) as error:
        step = _failed(*_parted(str(error)))
    except (SessionOutage, SessionTokenRejected) as error:
        step = _failed(*_parted(str(error), "try again in a minute; if it stays so, ask CardCash"))
    seconds = None if step.outcome is Outcome.SKIPPED else round(time.perf_counter() - began, 4)
    return replace(step, name=name, seconds=seconds)


_ok, _warning, _failed, _skipped = (partial(Step, "", outcome) for outcome in Outcome)


async def _left_out() -> Step:
    return _skipped("left out by --no-login")


class _Patient:
    """What the steps have found so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origin = Origin.parse(settings.upstream.origin)
        self._secrets = SecretsWatch(settings)
        self._tunnel = parts.tunnel(settings)
        first = self._tunnel or self._origin
        self._host, self._port = first.host, first.port
        self._addresses: list[tuple[str, int]] = []
        self._reached = False
        self._secured = False
        self._answered: RawHeaders | None = None
        self._session: Token | None = None

    async def names(self) -> Step:
        """Resolve the name of CardCash, or of the proxy of HTTPS_PROXY."""
        what = self._host if self._tunnel is None else f"the proxy of HTTPS_PROXY, {self._host}"
        try:
            async with asyncio.timeout(self._settings.upstream.connect_timeout):
                found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return _failed(
                f"{what} could not be resolved", "check DNS on this machine, and upstream.origin or HTTPS_PROXY"
            )
        self._addresses = list(dict.fromkeys((str(entry[4][0]), int(entry[4][1])) for entry in found))
        return _ok(f"{what} is {', '.join(address for address, _ in self._addresses)}")

    async def connections(self) -> Step:
        """Connect to each address, of IPv4 and IPv6."""
        if not self._addresses:
            return _skipped("no address")
        failed, seconds = {}, {}
        for address, port in self._addresses:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(self._settings.upstream.connect_timeout):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError as error:
                failed[address] = error_kinds.connecting(error, address).kind
                continue
            seconds[address] = time.perf_counter() - began
            self._reached = True
            writer.close()
        good = ", ".join(f"{address} port {self._port} in {took * 1000:.0f} ms" for address, took in seconds.items())
        bad = "; ".join(f"{address}: {kind.replace('_', ' ')}" for address, kind in failed.items())
        if not seconds:
            to_do = f"let this machine connect to port {self._port}: firewall, egress policy, route"
            if set(failed.values()) == {"refused"}:
                named = "HTTPS_PROXY" if self._tunnel else "upstream.origin"
                to_do = (
                    f"nothing listens at port {self._port}: is {named} right? Else it is down, or a firewall rejects us"
                )
            return _failed(bad, to_do)
        if failed:
            return _warning(f"{good}; not {bad}", "fine while the others answer; else mend the route of that family")
        return _ok(good)

    async def security(self) -> Step:
        """Make a TLS handshake as the proxy does, and read the certificate."""
        if not self._reached:
            return _skipped("no connection")
        if self._origin.scheme == "http":
            self._secured = True
            return _skipped("upstream.origin is plain http")
        try:
            context = CaWatch(self._settings.upstream.ca_file).context
        except ValueError as error:
            return _failed(str(error).rstrip("."), "check upstream.ca_file")
        handshake = _Handshake()
        try:
            await dial(
                handshake,
                self._origin,
                ssl_context=context,
                timeout=self._settings.upstream.connect_timeout,
                proxy=self._tunnel,
            )
        except UpstreamUnreachable as error:
            to_do = advice_for_kind(error.kind) if error.kind == "proxy" else certificate.advice(error.__cause__)
            return _failed(str(error).partition(";")[0].rstrip("."), to_do)
        self._secured = True
        detail, to_do = certificate.describe(handshake.tls, time.time())
        return _warning(detail, to_do) if to_do else _ok(detail)

    @asynccontextmanager
    async def _calls(self) -> AsyncIterator[SessionCalls]:
        secure = self._origin.scheme == "https"
        tls = CaWatch(self._settings.upstream.ca_file).context if secure else None
        async with aclosing(_Noting(parts.client_of_session_calls(self._settings, tls), self)) as upstream:
            yield parts.session_calls(self._settings, self._secrets.credentials, upstream, clock=SystemClock())

    def noted(self, headers: RawHeaders) -> None:
        """Keep the head of an answer, for its Date."""
        self._answered = headers

    async def session(self) -> Step:
        """Make a session."""
        if not self._secured:
            return _skipped("no connection")
        async with self._calls() as calls:
            self._session = await calls.session(tries=1)
        return _ok(f"a session that lives for {self._session.lifetime:.0f} s")

    async def compare_clocks(self) -> Step:
        """Compare this machine's clock with the answer's Date (RFC 9110, 6.6.1)."""
        value = None if self._answered is None else header_value(self._answered, b"date")
        if value is None:
            return _skipped("no answer with a Date")
        try:
            off = time.time() - parsedate_to_datetime(value.decode("latin-1")).timestamp()
        except (ValueError, TypeError):
            return _skipped("the answer's Date cannot be read")
        if abs(off) > _CLOCK_OFF:
            where = "ahead of" if off > 0 else "behind"
            return _warning(f"this machine's clock is {abs(off):.0f} s {where} CardCash's", "set the clock (NTP)")
        return _ok(f"{abs(off):.0f} s apart")

    async def login(self) -> Step:
        """Log the session in, once."""
        if not self._settings.login.configured:
            return _skipped("no login is configured")
        if self._session is None:
            return _skipped("no session")
        async with self._calls() as calls:
            await calls.login(self._session, tries=1)
        return _ok("logged in")

    async def store(self) -> Step:
        """Look whether the session store can be used."""
        place = self._settings.session.store
        if isinstance(place, StoreUrl):
            return await self._redis(place)
        kind = place.partition("://")[0]
        if kind == "memory":
            return _skipped("the session is kept in memory")
        await asyncio.to_thread(check_store, place)
        return _ok(f"{kind} can be used")

    async def _redis(self, url: StoreUrl) -> Step:
        """Find the Redis, log in there, and write a key of no meaning."""
        from proxy.session.stores.redis.client import RedisUnavailable
        from proxy.session.stores.redis.diagnosis import FailureKind
        from proxy.session.stores.redis.store import RedisStore

        place = StorePlace(self._settings, url, self._secrets)
        binding = Binding(str(self._origin), self._settings.app_id.reveal(), self._settings.login.email)
        store = cast("RedisStore", open_store(place, binding=lambda: binding, clock=SystemClock(), warn=lambda _: None))
        try:
            await store.probe()
            began = time.time()
            off, took = await store.probe() - began, time.time() - began
            is_foreign = (await store.look("")).is_foreign
        except RedisUnavailable as error:
            to_do = _MEND_REDIS if error.failure.kind is FailureKind.DOWN else _PERMIT_REDIS
            return _failed(*_parted(f"{store.address}: {error}", to_do))
        finally:
            await store.close()
        text = f"{url.kind} at {store.address} can be written to, in {took * 1000:.1f} ms"
        if url.shows_password:
            return _warning(f"{text}; its password travels openly", "use rediss://")
        if abs(off) > _CLOCK_OFF:
            return _warning(f"{text}; its clock is {abs(off):.0f} s from this machine's", "set the clocks (NTP)")
        if is_foreign:
            return _warning(
                f"{text}; the token there cannot be read", "give all replicas the same session.store_secret"
            )
        return _ok(text)


class _Handshake(asyncio.Protocol):
    """Ends the connection as soon as TLS is agreed on."""

    tls: ssl.SSLObject

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tls = transport.get_extra_info("ssl_object")
        cast("asyncio.Transport", transport).abort()


class _Noting:
    """Sends session calls, and keeps the heads of their answers."""

    def __init__(self, upstream: Upstream, patient: _Patient) -> None:
        self._upstream = upstream
        self._patient = patient
        self.aclose = upstream.aclose

    async def send(self, *, method: str, head: bytes, body: bytes | None) -> Response:
        response = await self._upstream.send(method=method, head=head, body=body)
        self._patient.noted(response.headers)
        return response


def _parted(sentence: str, otherwise: str = "") -> tuple[str, str]:
    """Part a sentence into what happened and what to do; `otherwise`: what to do if it does not say."""
    what, _, to_do = sentence.partition("; ")
    return what.strip().rstrip("."), to_do.strip().rstrip(".") or otherwise
