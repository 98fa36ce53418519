"""The composition root: builds the parts from the settings, starts them in order, and takes them down in reverse.

The only module that knows all of them. Nothing is decided here but the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from proxy import __version__, memory
from proxy.clock import Clock, TurnClock
from proxy.core.store_url import StoreUrl
from proxy.drain import close_listeners, finish
from proxy.guard_settings import guard_settings
from proxy.handed_over import HandedOver
from proxy.listening import LAST_SECONDS, Budget, Sockets, Unattended, admin_port, budget, descriptors
from proxy.loops import Loops
from proxy.notify import ServiceManager
from proxy.server.accounts import Accounts
from proxy.server.admin import Admin, Lifecycle
from proxy.server.admin_port import AdminPort
from proxy.server.bodies import Bodies, ReplayBudget
from proxy.server.forward import Forwarder
from proxy.server.guard import Guard
from proxy.server.listener import Listener
from proxy.server.outgoing import Injected, Sender
from proxy.server.proxy_port import ProxyServer
from proxy.session import keeper as session
from proxy.session.cardcash_calls import Credentials, SessionCalls
from proxy.session.keeper import SessionKeeper
from proxy.session.stores import Binding, OnNetwork
from proxy.session.stores.factory import open_store
from proxy.settings import Settings, proxy_variables
from proxy.store_place import StorePlace
from proxy.telemetry.history import Events, Traffic
from proxy.telemetry.logs import log
from proxy.telemetry.metrics import BUCKETS, Metrics
from proxy.telemetry.watch import RedisWatch, SessionWatch
from proxy.upstream import Origin, ProxyTunnel, Upstream
from proxy.watched_files import POLL_EVERY, CaWatch, SecretsWatch

#: Seconds between two looks at the callers' connections: time-outs, and resets that nobody has seen.
LOOK_EVERY = 1.0
#: Seconds between two looks at the held token: a short-lived one's renewal window must not end between them.
LOOK_AT_TOKEN_EVERY = 0.25
#: Seconds between two looks into a store that other processes use too.
FOLLOW_EVERY = 1.0
#: Seconds between two looks at the sockets from which other workers accept.
UNATTENDED_EVERY = 0.1
#: Session calls at a time: a renewal, a keep-alive, and what was given up and still closes.
SESSION_CONNECTIONS = 8
#: Seconds after which a reload counts as done, whatever hangs.
READ_AGAIN_WITHIN = 5.0
#: Seconds over `drain.*` until the process is gone: what is cut gets its answer, a slow reader its log.
AT_THE_END = 10.0


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a worker process has from its supervisor, which tells of its start and its stop, too."""

    worker: int
    sockets: Sockets
    admin_sockets: Sockets
    #: Make the admin port that all workers have in common, from what this process would tell alone.
    admin_port: Callable[[Admin, Guard, Metrics], AdminPort]
    #: No other worker will take in the callers that come now.
    all_end: Callable[[], bool]


class Proxy:
    """One running proxy. `async with Proxy(settings) as proxy:` starts it; `await proxy.run()` serves until stopped.

    With `inherited` it is one of several worker processes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        observer: Callable[[Metrics, Events], session.Observer] = SessionWatch,
        inherited: Inherited | None = None,
        handed_over: HandedOver | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._settings = settings
        self._inherited = inherited
        self._handed_over = handed_over
        self._manager = manager or ServiceManager()
        self._clock = clock or TurnClock()
        self._observer = observer
        self._stopping = asyncio.Event()
        self._stack = AsyncExitStack()
        self.life = Lifecycle(eager=settings.session.eager)
        self.loops = Loops()
        #: Addresses that are listened on, as people write them.
        self.addresses: list[str] = []
        self.admin_addresses: list[str] = []

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def start(self) -> None:
        """Start, once; a second call is harmless. Raises `CannotListen`, `StoreUnusable`, or ValueError for a setting."""
        if self.life.started:
            return
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def request_stop(self) -> None:
        """Ask for a drain and stop; harmless when asked twice."""
        self._stopping.set()

    def read_again(self) -> None:
        """Read all files that may change at once, instead of at their next turn."""
        self.loops.hurry()

    async def have_read_again(self) -> None:
        """Read all files that may change, and return when that is done, or takes too long; tell of both."""
        if self.life.draining or not self.life.started:
            return
        self._manager.reloading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READ_AGAIN_WITHIN):
                await self.loops.look_now()
        if not self.life.draining:
            self._manager.ready(self.addresses)

    async def run(self) -> None:
        """Serve until `request_stop`, then drain."""
        await self._stopping.wait()
        drain, alone = self._settings.drain, self._inherited is None
        self.life.draining = True
        if alone:
            log.info("draining", delay=drain.delay, timeout=drain.timeout, in_flight=self.guard.in_flight)
            self._manager.stopping(drain.delay + drain.timeout + AT_THE_END)
        if drain.delay:
            await asyncio.sleep(drain.delay)
        nobody_else = self._inherited is None or self._inherited.all_end()
        await close_listeners(self._listeners, self._sockets.bound_here() if nobody_else else [])
        await finish(self.server, self.guard, self.keeper, self.upstream, self.metrics, timeout=drain.timeout)
        if alone:
            log.info("stopped")

    async def _start(self) -> None:
        settings = self._settings
        began = time.perf_counter()
        self.metrics = Metrics(__version__)
        self.secrets = SecretsWatch(settings)
        if self._inherited is not None:
            await self.secrets.look()  # the supervisor has read the files, perhaps long ago
        origin = Origin.parse(settings.upstream.origin)
        self._ca = CaWatch(settings.upstream.ca_file) if origin.scheme == "https" else None
        variables = proxy_variables(settings.upstream.origin, os.environ) if settings.upstream.trust_env else None
        tunnel = ProxyTunnel(variables.host, variables.port, variables.authorization) if variables else None
        self._budget = self._shared_out(descriptors())
        reach = partial(
            Upstream,
            origin,
            ssl_context=None if self._ca is None else self._ca.context,
            connect_timeout=settings.upstream.connect_timeout,
            response_timeout=settings.upstream.response_timeout,
            max_age=settings.upstream.max_age,
            proxy=tunnel,
        )
        self.upstream = reach(max_connections=self._budget.upstream, idle_timeout=settings.upstream.idle_timeout)
        # The session calls' own connections: no full pool keeps them waiting, and none is used for a second call.
        aside = reach(max_connections=SESSION_CONNECTIONS, idle_timeout=0.0)
        self._clients = (self.upstream, aside)
        for client in self._clients:
            self._stack.push_async_callback(client.aclose)
        self._events = Events(time.time)
        self._traffic = Traffic(self.metrics.totals, BUCKETS)
        observer = self._observer(self.metrics, self._events)
        calls = SessionCalls(
            self._credentials(),
            aside,
            host=origin.host_header,
            base_path=settings.upstream.base_path,
            user_agent=settings.upstream.user_agent,
            clock=self._clock,
            failed=observer.call_failed,
        )
        url = settings.session.store
        self._place = StorePlace(settings, url, self.secrets) if isinstance(url, StoreUrl) else None
        store = self._store = open_store(
            url if isinstance(url, str) else cast("StorePlace", self._place),
            binding=lambda: Binding(str(origin), calls.credentials.app_id, calls.credentials.email),
            clock=self._clock,
            warn=lambda what: log.warning("session_store_corrupt", what=what),
            watch=RedisWatch(self.metrics),
        )
        self.keeper = SessionKeeper(
            calls,
            store=store,
            clock=self._clock,
            observer=observer,
            policy=session.Policy(
                renew_ahead=settings.session.renew_ahead,
                idle_after=settings.session.idle_after,
                keepalive_path=settings.session.keepalive_path,
            ),
        )
        self._stack.push_async_callback(self.keeper.close)
        self.guard = Guard(guard_settings(settings, required_value=lambda: self.secrets.required_header))
        budget = ReplayBudget(settings.limits.replay_total)
        self._watch_gauges(budget)
        forwarder = self._forwarder(origin, budget)
        self.server = ProxyServer(
            forwarder,
            forwarder.refuse_unparsed,
            most_connections=self._budget.callers,
            most_turned_away=self._budget.spare,
            check=self.guard.check_caller,
            required=self.guard.policy.required_name,
        )
        admin = Admin(
            version=__version__,
            origin=str(origin),
            keeper=self.keeper,
            upstream=self.upstream,
            guard=self.guard,
            metrics=self.metrics,
            life=self.life,
            not_alive=self.loops.not_alive,
            accepted=lambda: self.metrics.accepted,
            shutdown=self.request_stop,
            store=self._store_facts,
            recent=lambda: {**self._events.told(), "traffic": self._traffic.told()},
        )
        await self._open_ports(admin)
        self._stack.push_async_callback(self.loops.close)
        await self.keeper.start(eager=settings.session.eager)
        self._begin_loops(shares_store=store.shared)
        self.life.started = True
        if self._inherited is None:
            log.info(
                "started",
                version=__version__,
                listen=self.addresses,
                admin=self.admin_addresses,
                origin=str(origin),
                start_ms=round((time.perf_counter() - began) * 1000, 1),
            )
            self._manager.ready(self.addresses)

    async def _open_ports(self, own: Admin) -> None:
        """Listen: for operators first, who can see the start."""
        settings, given, stack = self._settings, self._inherited, self._stack
        admin: AdminPort = own
        if given is None:
            admin_sockets = Sockets(settings.admin.listen, "admin.listen", handed_over=self._handed_over)
            stack.callback(admin_sockets.remove)
        else:
            admin_sockets, admin = given.admin_sockets, given.admin_port(own, self.guard, self.metrics)
        number = 1 if given is None else given.worker
        await stack.enter_async_context(admin_port(admin, admin_sockets, number))
        stack.push_async_callback(self.server.shutdown, LAST_SECONDS)
        if given is None:
            self._sockets = Sockets(settings.listen, "listen", handed_over=self._handed_over)
            stack.callback(self._sockets.remove)
        else:
            self._sockets = given.sockets
        at_a_time = self._budget.spare
        listener, stays = partial(Listener, self.server, at_a_time=at_a_time), self._sockets.stays
        others = [listener(sock, waits=False, stays=stays(sock)) for sock in self._sockets.others(number)]
        self._listeners = [listener(sock, stays=stays(sock)) for sock in self._sockets.of(number)]
        self._listeners += others
        for each in self._listeners:
            stack.callback(each.close)
        self._unattended = Unattended(others)
        self.addresses, self.admin_addresses = self._sockets.names, admin_sockets.names

    def _shared_out(self, descriptors: int) -> Budget:
        """Share the descriptors out among the connections, and tell when they are fewer than the settings wish."""
        upstream, callers = self._settings.upstream.max_connections, self._settings.limits.connections
        shares = budget(descriptors, upstream=upstream, callers=callers)
        if shares.upstream < upstream or shares.callers < (callers or 0):
            log.warning("few_descriptors", limit=descriptors, callers=shares.callers, upstream=shares.upstream)
        return shares

    def _credentials(self) -> Credentials:
        login = self._settings.login
        password = self.secrets.password
        return Credentials(self.secrets.app_id, login.email, password) if password else Credentials(self.secrets.app_id)

    def _begin_loops(self, *, shares_store: bool) -> None:
        """Begin all that runs for the life of the process."""
        if self.secrets.has_files:
            self.loops.every(POLL_EVERY, "secrets", self._look_at_secrets)
        if self._settings.upstream.ca_file is not None:
            self.loops.every(POLL_EVERY, "ca", self._look_at_ca)
        if self._place is not None:
            self.loops.every(POLL_EVERY, "store files", self._place.look)
        if shares_store:
            self.loops.every(FOLLOW_EVERY, "store", self._follow)
        self.loops.every(LOOK_AT_TOKEN_EVERY, "keeper", self.keeper.look)
        self.loops.every(LOOK_EVERY, "callers", self.server.look)
        self.loops.every(memory.GIVE_BACK_EVERY, "memory", memory.give_back)
        self.loops.every(LOOK_EVERY, "traffic", lambda: self._traffic.look(time.monotonic()))
        if self._manager.word_every:
            self.loops.every(self._manager.word_every, "watchdog", self._tell_alive)
        if self._inherited is not None:
            self.loops.every(UNATTENDED_EVERY, "unattended", self._unattended.look)

    async def _follow(self) -> None:
        """Look into a shared store for what other processes did."""
        # First, or a session that another process made with a new secret would be taken for one with the old.
        await self._look_at_secrets()
        await self.keeper.catch_up()

    def _tell_alive(self) -> None:
        """Tell that this process is alive, as long as `/healthz` says so."""
        if not self.loops.not_alive():
            self._manager.alive()

    async def _look_at_secrets(self) -> None:
        if await self.secrets.has_changed():
            self.keeper.use_credentials(self._credentials())

    async def _look_at_ca(self) -> None:
        if self._ca is not None and await self._ca.look():
            for client in self._clients:
                client.use_tls(self._ca.context)

    def _forwarder(self, origin: Origin, budget: ReplayBudget) -> Forwarder:
        settings = self._settings
        host = origin.host_header
        default_port = {"http": b":80", "https": b":443"}[origin.scheme]
        plain = f"{origin.scheme}://".encode() + host
        injected = Injected(
            host=b"Host: %b\r\n" % host,
            app_id=lambda: self.keeper.calls.credentials.app_id,
            user_agent=b"User-Agent: %b\r\n" % settings.upstream.user_agent.encode("latin-1"),
            origins=(plain.lower(), plain.lower() + default_port),
        )
        accounts = Accounts(
            self.keeper,
            self._clock,
            configured_email=lambda: settings.login.email if settings.login.configured else None,
        )
        sender = Sender(
            processes=settings.workers,
            keeper=self.keeper,
            upstream=self.upstream,
            injected=injected,
            accounts=accounts,
            metrics=self.metrics,
            clock=self._clock,
        )
        return Forwarder(
            guard=self.guard,
            bodies=Bodies(
                most=settings.limits.request_body,
                buffer=settings.limits.replay_body,
                budget=budget,
                aside=self.guard.aside,
            ),
            sender=sender,
            accounts=accounts,
            metrics=self.metrics,
            failed=self._events.failed,
        )

    def _watch_gauges(self, budget: ReplayBudget) -> None:
        keeper = self.keeper
        self.metrics.in_flight.set_function(lambda: self.guard.in_flight)
        self.metrics.watch(
            expiry=lambda: keeper.status().expires_wall or 0.0,
            waiters=lambda: keeper.waiters,
            replay_bytes=lambda: budget.used,
            idle=lambda: self.upstream.idle_connections,
            active=lambda: self.upstream.active_connections,
            refused=lambda what: float(what in keeper.refusals),
            store_up=lambda: float(self._store_facts()["up"]),
            alone=lambda: float(keeper.alone),
        )

    def _store_facts(self) -> dict[str, Any]:
        """What `/status` says of the store itself; never user or password."""
        store, where = self._store, self._settings.session.store
        if isinstance(store, OnNetwork):
            return {"kind": store.kind, "host": store.address, "up": store.is_up, "trouble": store.trouble}
        return {"kind": str(where).partition(":")[0], "host": None, "up": True, "trouble": None}
