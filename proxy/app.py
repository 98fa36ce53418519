"""The composition root: builds the parts from the settings, starts them in order, and takes them down in reverse.

The only module that knows all of them. Nothing is decided here but the order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol, cast

from proxy import __version__, memory, parts
from proxy.clock import SystemClock
from proxy.core.store_url import StoreUrl
from proxy.drain import close_listeners, finish
from proxy.handed_over import HandedOver
from proxy.listening import Sockets, accepting, bound, budget_of
from proxy.loops import Loops
from proxy.server.accounts import Accounts
from proxy.server.admin import Lifecycle, OwnProcess
from proxy.server.admin_port import AdminPort, serving
from proxy.server.bodies import Bodies, ReplayBudget
from proxy.server.forward import Forwarder
from proxy.server.guard import Guard
from proxy.server.listener import LAST_SECONDS
from proxy.server.outgoing import Sender
from proxy.server.proxy_port import ProxyServer
from proxy.server.reports import Processes
from proxy.session import keeper as session
from proxy.session.keeper import SessionKeeper
from proxy.session.stores import Binding, OnNetwork
from proxy.session.stores.factory import open_store
from proxy.settings import Settings
from proxy.store_place import StorePlace, store_file
from proxy.telemetry.history import Events, Traffic
from proxy.telemetry.logs import log
from proxy.telemetry.metrics import BUCKETS, Metrics
from proxy.telemetry.watch import SessionWatch
from proxy.upstream import Upstream
from proxy.watched_files import POLL_EVERY, STANDS_AFTER, CaWatch, SecretsWatch

#: Seconds between two looks at the callers' connections: time-outs, and resets that nobody has seen.
LOOK_EVERY = 1.0
#: Seconds between two looks at the held token: a short-lived one's renewal window must not end between them.
LOOK_AT_TOKEN_EVERY = 0.25
#: Seconds between two looks into a store that other processes use too, and the part of them by which each is longer or
#: shorter: thousands that were started, or found their Redis again, at one moment do not stay in step.
FOLLOW_EVERY = 1.0
_FOLLOW_SPREAD = 0.2
#: Seconds between two looks at the sockets from which other workers accept.
UNATTENDED_EVERY = 0.1
#: Seconds after which a reload counts as done, whatever hangs.
READ_AGAIN_WITHIN = 5.0
#: Seconds over `drain.*` until a process is gone, or killed: what is cut gets its answer, a slow reader its log.
AT_THE_END = 10.0


class Inherited(Protocol):
    """What a worker process has from its supervisor."""

    worker: int
    sockets: Sockets
    admin_sockets: Sockets

    def reports(self, own: OwnProcess) -> Callable[[], Processes]:
        """Make what tells the admin port of all workers; `own` tells of this process."""
        ...

    def shutdown(self) -> None:
        """Ask for the end of all workers."""

    def all_end(self) -> bool:
        """Say whether no other worker will take in the callers that come now."""
        ...


class Proxy:
    """One running proxy. `async with Proxy(settings) as proxy:` starts it; `await proxy.run()` serves until stopped.

    With `inherited` it is one of several worker processes. To start it raises `CannotListen`, `StoreUnusable`, or ValueError
    for a setting.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Callable[[Metrics, Events], SessionWatch] = SessionWatch,
        inherited: Inherited | None = None,
        handed_over: HandedOver | None = None,
    ) -> None:
        self._settings = settings
        self._inherited = inherited
        self._handed_over = handed_over
        self._clock = SystemClock()
        self._observer = observer
        self._stopping = asyncio.Event()
        #: Seconds that a new secret has to stand in its file until it is taken.
        self._to_stand = STANDS_AFTER
        self._stack = AsyncExitStack()
        self.life = Lifecycle()
        self.loops = Loops()
        #: Addresses that are listened on, as people write them.
        self.addresses: list[str] = []
        self.admin_addresses: list[str] = []

    async def __aenter__(self) -> Proxy:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def request_stop(self) -> None:
        """Ask for a drain and stop; harmless when asked twice."""
        self._stopping.set()

    async def have_read_again(self) -> None:
        """Read all files that may change while it serves, and return when that is done, or takes too long."""
        if self.life.serving:
            self._to_stand = 0.0  # who asks for it says that they are complete
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_AGAIN_WITHIN):
                    await self.loops.look_now()
            self._to_stand = STANDS_AFTER

    async def told_to_stop(self) -> None:
        """Serve until `request_stop`."""
        await self._stopping.wait()

    async def run(self) -> None:
        """Serve until `request_stop`, then drain."""
        await self.told_to_stop()
        await self.drain()

    async def drain(self) -> None:
        """Finish what is in flight."""
        self.life.draining = True
        drain = self._settings.drain
        if drain.delay:
            await asyncio.sleep(drain.delay)
        nobody_else = self._inherited is None or self._inherited.all_end()
        await close_listeners(self._listeners, self._sockets.bound_here() if nobody_else else [])
        await finish(self.server, self.guard, self.keeper, self.upstream, self.metrics, timeout=drain.timeout)

    async def _start(self) -> None:
        settings = self._settings
        self.metrics = Metrics(__version__)
        self.secrets = SecretsWatch(settings)
        await self.secrets.look()  # the settings were read before, of a worker perhaps long ago
        self._budget = budget_of(settings)
        self._ca = CaWatch(settings.upstream.ca_file) if settings.upstream.origin.startswith("https:") else None
        tls = None if self._ca is None else self._ca.context
        self.upstream = parts.client(
            settings, tls, max_connections=self._budget.upstream, idle_timeout=settings.upstream.idle_timeout
        )
        session_client = parts.client_of_session_calls(settings, tls)
        self._clients = (self.upstream, session_client)
        for client in self._clients:
            self._stack.push_async_callback(client.aclose)
        self._events = Events(time.time)
        self._traffic = Traffic(self.metrics.requests.totals, BUCKETS)
        self.keeper = self._build_keeper(session_client)
        self._stack.push_async_callback(self.keeper.close)
        self.guard = Guard(parts.guard_settings(settings, required_value=lambda: self.secrets.required_header))
        buffered = ReplayBudget(settings.limits.replay_total)
        self._bind_gauges(buffered)
        forwarder = self._build_forwarder(buffered)
        self.server = ProxyServer(
            forwarder.serve,
            forwarder.refuse_unparsed,
            most_connections=self._budget.callers,
            most_turned_away=self._budget.spare,
            check=self.guard.check_caller,
            required=self.guard.policy.required_name,
        )
        await self._open_ports()
        self._stack.push_async_callback(self.loops.close)
        await self.keeper.start(eager=settings.session.eager)
        self._begin_loops()
        self.life.started = True

    def _build_keeper(self, session_client: Upstream) -> SessionKeeper:
        settings, url = self._settings, self._settings.session.store
        observer = self._observer(self.metrics, self._events)
        calls = parts.session_calls(
            settings, self.secrets.credentials, session_client, clock=self._clock, failed=observer.call_failed
        )
        self._place = StorePlace(settings, url, self.secrets) if isinstance(url, StoreUrl) else None
        self._store = open_store(
            url if isinstance(url, str) else cast("StorePlace", self._place),
            binding=lambda: Binding(settings.upstream.origin, calls.credentials.app_id, calls.credentials.email),
            clock=self._clock,
            warn=lambda what: log.warning("session_store_corrupt", what=what),
            watch=observer,
        )
        policy = session.Policy(
            renew_ahead=settings.session.renew_ahead,
            idle_after=settings.session.idle_after,
            keepalive_path=settings.session.keepalive_path,
        )
        return SessionKeeper(calls, store=self._store, clock=self._clock, observer=observer, policy=policy)

    def _build_forwarder(self, buffered: ReplayBudget) -> Forwarder:
        settings, keeper = self._settings, self.keeper
        login = settings.login
        accounts = Accounts(keeper, self._clock, configured_email=lambda: login.email if login.configured else None)
        sender = Sender(
            processes=settings.workers,
            keeper=keeper,
            upstream=self.upstream,
            injected=parts.injected(settings, lambda: keeper.calls.credentials.app_id),
            accounts=accounts,
            metrics=self.metrics,
            clock=self._clock,
        )
        bodies = Bodies(
            most=settings.limits.request_body,
            buffer=settings.limits.replay_body,
            budget=buffered,
            while_waiting=self.guard.waiting_for_body,
        )
        return Forwarder(
            guard=self.guard,
            bodies=bodies,
            sender=sender,
            accounts=accounts,
            metrics=self.metrics,
            failed=self._events.failed,
        )

    async def _open_ports(self) -> None:
        """Listen: for operators first, who can see the start."""
        settings, given, stack = self._settings, self._inherited, self._stack
        own = OwnProcess(
            origin=settings.upstream.origin,
            eager=settings.session.eager,
            keeper=self.keeper,
            upstream=self.upstream,
            guard=self.guard,
            counted=self.metrics,
            life=self.life,
            not_alive=self.loops.not_alive,
            store=self._store_facts,
            events=self._events,
            traffic=self._traffic,
        )
        processes, shutdown = (own.alone, self.request_stop) if given is None else (given.reports(own), given.shutdown)
        port = AdminPort(own, processes, shutdown)
        if given is None:
            self._sockets, admin_sockets = bound(settings, self._handed_over, stack)
        else:
            self._sockets, admin_sockets = given.sockets, given.admin_sockets
        worker = 1 if given is None else given.worker
        at_admin_port = {sock: admin_sockets.stays(sock) for sock in admin_sockets.of(worker)}
        await stack.enter_async_context(serving(port, at_admin_port, most=self._budget.spare))
        stack.push_async_callback(self.server.shutdown, LAST_SECONDS)
        self._listeners = accepting(self._sockets, worker, self.server, at_a_time=self._budget.spare)
        for each in self._listeners:
            stack.callback(each.close)
        self.addresses, self.admin_addresses = self._sockets.names, admin_sockets.names

    def _begin_loops(self) -> None:
        """Begin all that runs for the life of the process."""
        every = self.loops.every
        if self.secrets.has_files:
            every(POLL_EVERY, "secrets", self._look_at_secrets)
        if self._settings.upstream.ca_file is not None:
            every(POLL_EVERY, "ca", self._look_at_ca)
        if (place := self._place) is not None:
            every(POLL_EVERY, "store files", lambda: place.look(stood=self._to_stand))
        elif (path := self._settings.session.store_file) is not None:
            file = store_file(path, self._settings.session.store)
            every(POLL_EVERY, "store files", lambda: file.look(stood=self._to_stand))
        if self._store.shared:
            every(FOLLOW_EVERY, "store", self._follow, spread=_FOLLOW_SPREAD)
        every(LOOK_AT_TOKEN_EVERY, "keeper", self.keeper.look)
        every(LOOK_EVERY, "callers", self.server.look)
        every(memory.GIVE_BACK_EVERY, "memory", memory.give_back)
        every(LOOK_EVERY, "traffic", lambda: self._traffic.look(time.monotonic()))
        if self._inherited is not None:
            every(UNATTENDED_EVERY, "unattended", self._look_at_unattended)

    def _look_at_unattended(self) -> None:
        for listener in self._listeners:
            listener.look()

    async def _follow(self) -> None:
        """Look into a shared store for what other processes did."""
        # First, or a session that another process made with a new secret would be taken for one with the old.
        await self._look_at_secrets()
        if not self.secrets.is_settling:
            await self.keeper.follow()

    async def _look_at_secrets(self) -> None:
        if await self.secrets.look(stood=self._to_stand):
            self.keeper.use_credentials(self.secrets.credentials)

    async def _look_at_ca(self) -> None:
        if self._ca is not None and await self._ca.look():
            for client in self._clients:
                client.use_tls(self._ca.context)

    def _bind_gauges(self, buffered: ReplayBudget) -> None:
        """Let gauges be read when they are scraped, so that they cost nothing in between."""
        metrics, keeper, upstream = self.metrics, self.keeper, self.upstream
        metrics.in_flight.set_function(lambda: self.guard.in_flight)
        metrics.expiry.set_function(lambda: 0.0 if keeper.held is None else keeper.held.expires_wall)
        metrics.waiters.set_function(lambda: keeper.waiters)
        metrics.replay_bytes.set_function(lambda: buffered.used)
        metrics.connections.labels("idle").set_function(lambda: upstream.idle_connections)
        metrics.connections.labels("active").set_function(lambda: upstream.active_connections)
        for what in ("app_id", "login"):
            metrics.refused.labels(what).set_function(partial(self._is_refused, what))
        metrics.store_up.set_function(lambda: float(self._store_facts()["up"]))
        metrics.alone.set_function(lambda: float(keeper.alone))

    def _is_refused(self, what: str) -> float:
        return float(what in self.keeper.refusals)

    def _store_facts(self) -> dict[str, Any]:
        """What `/status` says of the store itself; never user or password."""
        store, trouble = self._store, self.keeper.store_trouble
        kind, host = str(self._settings.session.store).partition(":")[0], None
        if isinstance(store, OnNetwork):
            kind, host = store.kind, store.address
        return {"kind": kind, "host": host, "up": trouble is None, "trouble": trouble}
