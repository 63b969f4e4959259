"""The running gateway: its parts, its listeners, and the order in which they start and stop."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable

from aiohttp import http_parser, web

from gateway import __version__, config
from gateway.admin.listener import AdminListener, AdminRunner, Operations
from gateway.app.descriptors import ADMIN, limit_of_process, shares
from gateway.app.listeners import Listeners
from gateway.app.loop_lag import LoopLag
from gateway.app.telemetry import TelemetryParts
from gateway.app.tls import client_context, server_context
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
from gateway.store.factory import StoreOptions, open_store
from gateway.telemetry import log
from gateway.telemetry.metrics import Levels, registry
from gateway.upstream.client import HttpUpstream
from gateway.warm import Warmer

events = logging.getLogger("gateway.events")


class Runtime:
    """One running gateway."""

    def __init__(
        self, settings: config.Config, *, operations: Callable[[Runtime], Operations], clock: Clock | None = None
    ) -> None:
        if getattr(http_parser, "HttpRequestParserC", None) is not http_parser.HttpRequestParser:
            raise StoreError("aiohttp's C parser is missing; install a binary wheel of aiohttp.")
        self.clock: Clock = clock or SystemClock()
        self.started_with = settings
        self.live = Live(settings)
        self.reload = ReloadState()
        self.serving = False
        self.loop_lag = LoopLag()
        self.telemetry = TelemetryParts(self.live, self.levels, self.clock)
        self.store, ledger = open_store(
            settings.cache.store,
            StoreOptions(
                memory_bytes=settings.cache.memory,
                disk_bytes=settings.cache.disk,
                max_entry_bytes=settings.cache.max_entry,
                clock=self.clock,
                lock_wait_seconds=settings.server.drain_timeout,
            ),
        )
        observer, tls = self.telemetry.observer, client_context(settings.upstream)
        self.upstream = HttpUpstream(self.live, tls, self.clock, observer, self.store.begin_spool)
        self.results = ResultParts(self.live, self.upstream, self.store, ledger, self.clock)
        self.executions = ExecutionParts(self.live, self.upstream, self.results, ledger, observer, self.clock)
        quotas = Quotas(self.live, self.clock)
        pipeline = Pipeline(
            Admission(self.live, quotas, self.clock),
            self.results.bindings,
            self.results.definitions,
            self.results.pauses,
            self.executions.lookup,
            self.executions.responses,
            self.results.reader,
            self.results.metadata,
            observer,
        )
        slots, breaker = self.executions.flights.slots, self.upstream.breaker
        self.warmer = Warmer(self.live, self.executions.lookup, self.results, slots, breaker, self.clock)
        each = self.telemetry.tracing is not None
        self.api = ApiListener(self.live, pipeline, quotas, self.store, observer, self.clock, each=each)
        self.results.definitions.on_invalidated = self.api.cache.drop_query
        self.results.pauses.on_dropped = self.api.cache.clear
        self.listeners = Listeners()
        self.tls: ssl.SSLContext | None = None
        self.operations = operations(self)

    async def start(self) -> None:
        """Open the store, follow unfinished executions, listen.

        Raises:
            StoreError: the store cannot be opened.
            OSError: listening on an address fails.
        """
        await self.store.open()
        await self.upstream.open()
        resumed = await self.executions.flights.resume(self.live.access.credentials)
        if resumed:
            events.info("following %d executions that an earlier process began", resumed)
        if ANONYMOUS in self.live.access.callers:
            events.warning("[clients.anonymous] is configured: EVERYBODY who reaches the listener is served")
        settings = self.live.settings
        self.tls = server_context(settings.server)
        room = shares(limit_of_process(), settings.upstream.max_requests)
        api = web.ServerRunner(self.api.server(room.connections), shutdown_timeout=1.0)  # `drain` has waited before
        self.api_address = await self.listeners.open(api, settings.server.listen, self.tls, backlog=room.backlog)
        metrics = self.telemetry.metrics
        operator = AdminListener(self.operations, lambda: registry(metrics.frozen()), lambda: self.live.settings)
        admin = AdminRunner(operator.application(), shutdown_timeout=2.0)
        self.admin_address = await self.listeners.open(admin, settings.admin.listen, None, backlog=ADMIN)
        self.serving = True
        self.loop_lag.start()
        self.warmer.start()
        events.info("redash-gateway %s serves %s, admin on %s", __version__, self.api_address, self.admin_address)

    async def stop(self) -> None:
        """Stop listening, let open requests finish within `drain_timeout`, leave executions to be resumed.

        The admin listener closes last: `/readyz` responds 503 while requests are drained.
        """
        self.serving = False
        self.executions.flights.drain()
        await self.listeners.stop_listening(but_last=True)
        await self.api.drain()
        await self.listeners.stop_listening()
        await self.listeners.aclose()
        await self.warmer.stop()
        await self.executions.flights.aclose()
        await self.results.aclose()
        await self.api.aclose()
        await self.upstream.close()
        await self.store.close()
        self.loop_lag.stop()
        self.api.cache.flush_all()
        await self.telemetry.aclose()

    def reconfigure(self, configured: Configured, upstream_tls: ssl.SSLContext) -> None:
        """Put a valid configuration in force; listen addresses and the store stay as they are."""
        self.upstream.use_tls(upstream_tls)
        self.live.replace(configured)
        server = configured.settings.server
        if self.tls is not None and server.tls_cert and server.tls_key:
            self.tls.load_cert_chain(server.tls_cert, server.tls_key)
        self.reload.successful, self.reload.at = True, time.time()

    def levels(self) -> Levels:
        """Return the values that are read from the parts on demand, for a scrape or the status page."""
        self.api.cache.flush_all()
        self.telemetry.observer.flush()
        flights = self.executions.flights
        running = flights.running
        return Levels(
            executions_in_flight=len(running),
            execution_waiters=sum(execution.waiters for execution in running),
            upstream_queue=flights.slots.queued + self.upstream.slots.queued,
            waiting={**flights.waits.counts(), "request": self.upstream.slots.queued},
            breaker_open=self.upstream.breaker.is_open,
            tiers=self.store.stats(),
            reload_successful=self.reload.successful,
            reloaded_at=self.reload.at,
            warm=self.warmer.counts(),
            log_lines_dropped=log.lines_dropped(),
            loop_lag=self.loop_lag.longest(),
        )


class ReloadState:
    """Whether the last reload was successful, and when the configuration in force was loaded (unix seconds)."""

    def __init__(self) -> None:
        self.successful = True
        self.at = time.time()
