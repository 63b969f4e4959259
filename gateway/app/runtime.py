"""The running gateway: every part built from the configuration, its listeners, and what an operator may ask of it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import http_parser, web

from gateway import __version__, config
from gateway.admin.listener import Admin, Operations
from gateway.app.tls import client_context, server_context
from gateway.errors import StoreError
from gateway.executions.flights import Executions
from gateway.executions.jobs import Jobs
from gateway.executions.lookup import ResultLookup
from gateway.executions.runner import Runner
from gateway.http.api import Api
from gateway.http.fast_path import FastPath
from gateway.http.response_cache import ResponseCache
from gateway.model import Clock, SystemClock
from gateway.pipeline import Gateway
from gateway.policy.access import ANONYMOUS, Access
from gateway.policy.quotas import Quotas
from gateway.results.bindings import Bindings
from gateway.results.cache import Results
from gateway.results.definitions import Definitions
from gateway.results.fetcher import Fetching
from gateway.results.metadata import Metadata
from gateway.results.reader import ResultReader
from gateway.store.factory import open_store
from gateway.store.forms import Compressor
from gateway.telemetry import log
from gateway.telemetry.metrics import Levels, Metrics, registry
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.telemetry import Telemetry
from gateway.telemetry.tracing import Tracing
from gateway.upstream.client import HttpUpstream
from gateway.warm import Warmer

events = logging.getLogger("gateway.events")

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: dashboards open many at once."""


class Runtime:
    """One running gateway: its parts, its listeners, and what an operator may ask of it."""

    def __init__(
        self, settings: config.Config, *, operator: Callable[[Runtime], Operations], clock: Clock | None = None
    ) -> None:
        if getattr(http_parser, "HttpRequestParserC", None) is not http_parser.HttpRequestParser:
            raise StoreError("aiohttp's C parser is missing; install a binary wheel of aiohttp.")
        self.settings = self.started_with = settings
        self.operator = operator(self)
        self.clock: Clock = clock or SystemClock()
        self.reloaded_at = time.time()
        self.reload_successful = True
        self.serving = False
        self._runners: list[web.BaseRunner] = []
        self.tls: ssl.SSLContext | None = None
        self._build()
        self._build_listener()

    def _build(self) -> None:
        settings, clock = self.settings, self.clock
        self.access = Access(settings)
        self.store, self.ledger = open_store(
            settings.cache.store,
            memory_bytes=settings.cache.memory,
            disk_bytes=settings.cache.disk,
            max_entry_bytes=settings.cache.max_entry,
            clock=clock,
            lock_wait_seconds=settings.server.drain_timeout,
        )
        self.metrics = Metrics(self.levels, self.access.credentials, settings.metrics.per_query)
        self.tracing = Tracing(settings.tracing.endpoint, clock) if settings.tracing.endpoint else None
        self.recorder = StatusRecorder(clock.monotonic)
        self.observer = Telemetry(
            self.metrics, clock, access_log=settings.log.access, recorder=self.recorder, tracing=self.tracing
        )
        tls = client_context(settings.upstream)
        self.upstream = HttpUpstream(settings.upstream, tls, clock, self.observer, self.store.spool_path)
        self.definitions = Definitions(self.upstream, self.store, self.ledger, clock)
        self.results = Results(self.store, self.ledger, clock)
        self.fetching = Fetching(self.upstream, self.results, clock)
        self.quotas = Quotas(settings.clients, clock)
        self.bindings = Bindings(self.upstream, self.definitions, clock)
        self.metadata = Metadata(settings, self.upstream, self.definitions, self.bindings, clock)
        runner = Runner(self.upstream, self.results, self.fetching, clock)
        self.executions = Executions(
            runner, self.definitions, self.ledger, clock, self.observer, settings, changed=self._query_changed
        )
        lookup = ResultLookup(self.results, self.executions, clock)
        self.reading = ResultReader(settings, self.definitions, self.results, self.fetching, self.ledger, clock)
        self.gateway = Gateway(
            settings,
            access=self.access,
            quotas=self.quotas,
            bindings=self.bindings,
            definitions=self.definitions,
            results=self.results,
            lookup=lookup,
            jobs=Jobs(self.executions, self.upstream, self.ledger, clock),
            reading=self.reading,
            metadata=self.metadata,
            clock=clock,
            slug=_slug(settings),
        )
        self.warmer = Warmer(self.gateway, self.executions, self.upstream, clock, breaker=self.upstream.breaker)

    def _build_listener(self) -> None:
        settings, clock = self.settings, self.clock
        self.answers = ResponseCache(self.store, self.observer, clock, settings.cache.memory // 4)
        self.lane = FastPath(self.answers, each=self.tracing is not None)
        self.compressor = Compressor(self.store)
        self.api = Api(
            lambda: self.gateway,
            observer=self.observer,
            clock=clock,
            answers=self.answers,
            lane=self.lane,
            compressor=self.compressor,
        )
        self.definitions.on_invalidated = self.answers.forget_query

    def _query_changed(self, query_id: int) -> None:
        """Make the end of a run visible: who polls and then reads "latest" or the query object sees the new result."""
        self.definitions.drop(query_id)
        self.metadata.drop_query(query_id)

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, follow what was unfinished, listen.

        Raises:
            StoreError: the store cannot be had.
            OSError: an address cannot be listened on.
        """
        await self.store.open()
        await self.upstream.open()
        resumed = await self.executions.resume(self.access.credentials)
        if resumed:
            events.info("following %d executions that an earlier process began", resumed)
        if ANONYMOUS in self.access.callers:
            events.warning("[clients.anonymous] is configured: EVERYBODY who reaches the listener is served")
        server = self.settings.server
        self.tls = server_context(server)
        runner = web.ServerRunner(self.api.server(), shutdown_timeout=1.0)  # `drain` has waited before
        self.api_address = await self._listen(runner, server.listen, self.tls)
        admin = Admin(self.operator, registry(self.metrics), lambda: self.settings)
        admin_runner = web.AppRunner(admin.application(), access_log=None, shutdown_timeout=2.0)
        self.admin_address = await self._listen(admin_runner, self.settings.admin.listen, None)
        self.serving = True
        self.warmer.start(self.settings.warm)
        events.info("redash-gateway %s serves %s, admin on %s", __version__, self.api_address, self.admin_address)

    async def _listen(self, runner: web.BaseRunner, where: config.Listen, tls: ssl.SSLContext | None) -> config.Listen:
        await runner.setup()
        self._runners.append(runner)
        if where.unix:
            await web.UnixSite(runner, where.unix, ssl_context=tls, backlog=BACKLOG).start()
            return where
        await web.TCPSite(runner, where.host, where.port, ssl_context=tls, backlog=BACKLOG).start()
        return config.Listen(host=where.host, port=runner.addresses[0][1])

    async def _stop_listening(self, runners: list[web.BaseRunner]) -> None:
        for runner in runners:
            for site in list(runner.sites):
                await site.stop()

    async def stop(self) -> None:
        """Stop listening, let open requests finish within `drain_timeout`, leave executions to be resumed.

        The admin listener goes last: `/readyz` says 503 while requests are drained.
        """
        self.serving = False
        self.gateway.draining = True
        self.executions.release_waiters()
        await self._stop_listening(self._runners[:1])
        self.answers.clear()
        await self.api.drain(self.settings.server.drain_timeout)
        await self._stop_listening(self._runners[1:])
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        await self.warmer.stop()
        await self.executions.close()
        await self.metadata.aclose()
        await self.bindings.aclose()
        await self.definitions.aclose()
        await self.fetching.aclose()
        await self.compressor.aclose()
        await self.upstream.close()
        await self.store.close()
        self._record_all()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def apply(self, settings: config.Config, upstream_tls: ssl.SSLContext) -> None:
        """Take over a configuration that has been found good; listen addresses and the store stay as they are."""
        self.settings = self.gateway.settings = settings
        self.reading.settings = self.metadata.settings = settings
        self.access = self.gateway.access = Access(settings)
        self.gateway.slug = _slug(settings)
        self.quotas.configure(settings.clients)
        self.answers.clear()
        self.api.cut_off(self.access, self.clock.wall())
        self.upstream.configure(settings.upstream, upstream_tls)
        self.executions.configure(settings)
        self.observer.access_log = settings.log.access
        self.metrics.configure(self.access.credentials, settings.metrics.per_query)
        self.warmer.start(settings.warm)
        if self.tls is not None and settings.server.tls_cert and settings.server.tls_key:
            self.tls.load_cert_chain(settings.server.tls_cert, settings.server.tls_key)

    def _record_all(self) -> None:
        """Tell of what has been gathered: what the lane has given, then everything that waits to be told."""
        self.answers.flush_all()
        self.observer.flush()

    def levels(self) -> Levels:
        """Return what is read from the parts when somebody looks: a scrape, the status page."""
        self._record_all()
        running = self.executions.running
        return Levels(
            executions_in_flight=len(running),
            execution_waiters=sum(execution.waiters for execution in running),
            upstream_queue=self.executions.slots.queued + self.upstream.slots.queued,
            breaker_open=self.upstream.breaker.is_open,
            tiers=self.store.stats(),
            reload_successful=self.reload_successful,
            reloaded_at=self.reloaded_at,
            warm=self.warmer.counts(),
            log_lines_dropped=log.lines_dropped(),
        )


def _slug(settings: config.Config) -> str:
    return urlsplit(settings.upstream.url).path.strip("/")
