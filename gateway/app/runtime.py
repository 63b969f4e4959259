"""The running gateway: its parts, its listeners, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable

import msgspec
from aiohttp import http_parser, web

from gateway import __version__, config
from gateway.admin.listener import AdminListener, AdminRunner
from gateway.admin.operations import Operations
from gateway.app import bounds
from gateway.app.descriptors import ADMIN_CONNECTIONS, limit_of_process, shares
from gateway.app.handover import Handover
from gateway.app.life_log import StopLog, log_resumed
from gateway.app.listeners import Inherited, Listeners
from gateway.app.loop_lag import LoopLag
from gateway.app.settings import store_options
from gateway.app.sockets import Rights
from gateway.app.systemd import ADMIN, API, Supervisor
from gateway.app.telemetry import TelemetryParts
from gateway.app.tls import client_context, expiries, server_context
from gateway.errors import StoreError
from gateway.executions.parts import ExecutionParts
from gateway.http.listener import ApiListener
from gateway.model import Clock, SystemClock
from gateway.pipeline import Pipeline
from gateway.policy.access import ANONYMOUS
from gateway.policy.admission import Admission
from gateway.policy.configured import Configured, Live
from gateway.policy.quotas import Quotas
from gateway.results.parts import ResultParts
from gateway.store.factory import open_store, sharing
from gateway.telemetry import log
from gateway.telemetry.levels import Levels
from gateway.telemetry.metrics import registry
from gateway.upstream.client import HttpUpstream
from gateway.warming.records import Records
from gateway.warming.refreshing import Refresher
from gateway.warming.rounds import Rounds
from gateway.warming.spare import Spare
from gateway.warming.warmer import Warmer

events = logging.getLogger("gateway.events")


class Runtime:
    """One running gateway."""

    def __init__(
        self,
        settings: config.Config,
        *,
        operations: Callable[[Runtime], Operations],
        clock: Clock | None = None,
        inherited: Inherited | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """`inherited`: listening sockets that the process was started with, by the name of the listener."""
        _check_parser()
        self.clock: Clock = clock or SystemClock()
        self.started_with = settings
        self.live = Live(settings)
        self.reload = ReloadState(settings)
        self.serving = False
        self.loop_lag = LoopLag()
        self.telemetry = TelemetryParts(self.live, self.levels, self.clock)
        options = store_options(settings, self.clock)
        self.name = options.name
        self.store, ledger, self.leases = open_store(settings.cache.store, options)
        self.sharing = sharing(self.store)
        observer, tls = self.telemetry.observer, client_context(settings.upstream)
        self.upstream = HttpUpstream(self.live, tls, self.clock, observer, self.store.begin_spool, ledger.has_results)
        self.results = ResultParts(self.live, self.upstream, self.store, ledger, self.clock)
        parts = self.live, self.upstream, self.results
        tokens, spending = (self.sharing.tokens, self.sharing.spending) if self.sharing else (None, None)
        self.executions = ExecutionParts(*parts, ledger, self.leases, spending, observer, self.clock)
        self.quotas = quotas = Quotas(self.live, self.clock, tokens)
        pipeline = Pipeline(
            Admission(self.live, quotas, self.clock),
            self.results,
            self.executions,
            observer,
        )
        self.warmer = self._warmer()
        each = self.telemetry.tracing is not None
        self.api = ApiListener(self.live, pipeline, quotas, self.store, observer, self.clock, each=each)
        self.watchers = self.executions.live.watchers
        self._connect()
        self.listeners = Listeners(Handover(settings.cache.store), inherited or {})
        self.supervisor = supervisor or Supervisor({})
        self._resuming: asyncio.Task[None] | None = None
        self.tls: ssl.SSLContext | None = None
        self.operations = operations(self)

    def _connect(self) -> None:
        """Let the parts hear of what others notice."""
        self.results.definitions.on_invalidated = self._invalidated
        self.results.pauses.on_dropped = self.api.cache.clear
        if self.sharing is not None:
            self.sharing.on_stored(self.watchers.note_stored)
            self.sharing.on_write(self.results.metadata.drop_all)
            self.results.metadata.announce_write = self.sharing.announce_write

    def _invalidated(self, query_id: int) -> None:
        self.api.cache.drop_query(query_id)
        self.watchers.note(query_id)

    def _warmer(self) -> Warmer:
        spare = Spare(self.executions.flights.slots, self.upstream.breaker)
        refresher = Refresher(self.live, self.executions.lookup, self.results.definitions, self.clock)
        rounds = Rounds(self.live, refresher, self.results.dashboards, spare)
        records = Records(self.store, self.leases, self.sharing, self.name, self.clock)
        warmer = Warmer(self.live, refresher, rounds, records, spare, self.clock)
        self.executions.lookup.on_asked = warmer.note
        self.telemetry.observer.on_requests = warmer.count
        return warmer

    async def start(self) -> None:
        """Listen, open the store, follow unfinished executions, accept connections.

        While another process has the store, connections queue: only who has the ledger knows all job ids.

        Raises:
            StoreError: the store cannot be opened.
            OSError: listening on an address fails.
        """
        settings = self.live.settings
        self.tls = server_context(settings.server)
        server = settings.server
        room = shares(limit_of_process(), settings.upstream.max_requests, len(server.listen))
        rights = Rights(server.socket_mode, server.socket_group)
        self.api_addresses = await self.listeners.open(API, server.listen, backlog=room.backlog, rights=rights)
        (self.admin_address,) = await self.listeners.open(ADMIN, [settings.admin.listen], backlog=ADMIN_CONNECTIONS)
        await self.store.open()
        await self.upstream.open()
        await self.results.identities.adopt(self.live.access)
        self._resuming = asyncio.create_task(self._resume())
        if self.store.ready:
            await self._resuming
        if ANONYMOUS in self.live.access.callers:
            events.warning("[clients.anonymous] is configured: EVERYBODY who reaches the listener is served")
        api = web.ServerRunner(
            self.api.server(room.connections), shutdown_timeout=1.0
        )  # `api.aclose` has waited before
        await self.listeners.accept(API, api, self.tls, backlog=room.backlog)
        metrics = self.telemetry.metrics
        operator = AdminListener(
            self.operations, lambda: registry(metrics.frozen()), lambda: self.live.settings, self.clock
        )
        admin = AdminRunner(operator.application(), shutdown_timeout=2.0)
        await self.listeners.accept(ADMIN, admin, None, backlog=ADMIN_CONNECTIONS)
        self.serving = True
        self.loop_lag.start()
        self.warmer.start()
        self.supervisor.ready()
        served = ", ".join(map(str, self.api_addresses))
        events.info("redash-gateway %s serves %s, admin on %s", __version__, served, self.admin_address)

    async def _resume(self) -> None:
        """Follow the executions of an earlier process, as soon as the ledger can be read."""
        await self.store.usable()
        await self.results.cache.restore()
        await self.executions.budgets.restore()
        log_resumed(await self.executions.revival.resume())
        self.executions.budgets.give_up_all_but({run.id for run in self.executions.flights.running})

    async def stop(self) -> None:
        """Stop listening, let open requests finish within `drain_timeout`, leave executions to be resumed.

        The next process has the store as soon as every response is complete; some may still be on their way. Until
        then the admin listener stays open, and `/readyz` responds 503.
        """
        stop, flights = StopLog(served=self.serving), self.executions.flights
        self.serving = False
        self.supervisor.stopping()
        open_, _ = self.api.api.connections
        requests, runs = self.api.api.requests_in_progress, len(flights.running)
        stop.begins(self.live.settings.server.drain_timeout, connections=open_, requests=requests, runs=runs)
        self.api.begin_to_drain()
        # Only then let go who waits: whoever comes again at once is to come to the next process.
        await self.listeners.stop_accepting(API)
        self.watchers.close()
        flights.drain()
        stop.drained(await self.api.drain())
        await self.listeners.stop_accepting(ADMIN)
        left = len(flights.running)
        await self._leave_to_the_next()
        stop.ended(await self.api.aclose(), left)
        await self.listeners.aclose()
        self.loop_lag.stop()
        self.api.cache.flush_all()
        await self.telemetry.aclose()
        self.supervisor.aclose()

    async def _leave_to_the_next(self) -> None:
        """Stop following executions, and release the store."""
        if self._resuming is not None:
            self._resuming.cancel()
            await asyncio.wait({self._resuming})
        await self.warmer.stop()
        await self.executions.flights.aclose()
        await self.results.aclose()
        await self.upstream.close()
        await self.store.close()

    def hurry(self) -> None:
        """Let `stop` cut open requests off."""
        self.api.hurry()

    def reconfigure(self, configured: Configured, upstream_tls: ssl.SSLContext) -> None:
        """Put a valid configuration in force; listen addresses and the store stay as they are."""
        self.upstream.use_tls(upstream_tls)
        self.live.replace(configured)
        server = configured.settings.server
        if self.sharing is not None and config.is_redis(configured.settings.cache.store):
            self.sharing.use(configured.settings.redis_address)
        if self.tls is not None and server.tls_cert and server.tls_key:
            self.tls.load_cert_chain(server.tls_cert, server.tls_key)
        self.reload = ReloadState(configured.settings)

    def levels(self) -> Levels:
        """Return the values that are read from the parts on demand, for a scrape or the console."""
        self.api.cache.flush_all()
        self.telemetry.observer.flush()
        flights = self.executions.flights
        running, memory = flights.running, self.live.settings.cache.memory
        return Levels(
            executions_in_flight=len(running),
            execution_waiters=sum(execution.waiters for execution in running),
            upstream_queue=flights.slots.queued + self.upstream.slots.queued,
            watchers=self.watchers.count,
            waiting={**flights.waits.counts(), "request": self.upstream.slots.queued},
            breaker_open=self.upstream.breaker.is_open,
            tiers=self.store.stats(),
            name=self.name,
            sharing=self.sharing.stats() if self.sharing else None,
            leases=self.leases.held,
            lease_losses=self.leases.losses,
            reload_successful=self.reload.successful,
            reloaded_at=self.reload.at,
            warm=self.warmer.counts(),
            ahead=msgspec.structs.asdict(self.warmer.ahead),
            log_lines_dropped=log.lines_dropped(),
            loop_lag=self.loop_lag.longest(),
            serving=self.serving,
            resumed=self.executions.revival.resumed,
            budgets=self.executions.budgets.levels(),
            in_use=bounds.in_use(self.api, self.executions, self.upstream),
            memory=bounds.memory(memory, self.api, self.results, self.executions, self.upstream, self.warmer),
            client_expiries={name: c.expires for name, c in self.live.settings.clients.items() if c.expires},
            certificate_expiries=self.reload.certificates,
        )


def _check_parser() -> None:
    if getattr(http_parser, "HttpRequestParserC", None) is not http_parser.HttpRequestParser:
        raise StoreError("aiohttp's C parser is missing; install a binary wheel of aiohttp.")


class ReloadState:
    """Whether the last reload was successful, and when the configuration in force was loaded (unix seconds)."""

    def __init__(self, settings: config.Config) -> None:
        self.successful = True
        self.at = time.time()
        self.certificates = expiries(settings)
        """Until when those in force are valid."""
