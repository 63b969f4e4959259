"""The running gateway: every part built from the configuration, its listeners, and what an operator may ask of it."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import http_parser, web

from gateway import __version__, config, log
from gateway.access import ANONYMOUS, Access
from gateway.admin import Admin
from gateway.bindings import Bindings
from gateway.calls import Call
from gateway.definitions import Definitions
from gateway.errors import BadRequest, ConfigurationError, StoreError
from gateway.execution import Runner
from gateway.executions import Executions
from gateway.hitlane import HitLane
from gateway.jobs import Jobs
from gateway.metadata import Metadata
from gateway.metrics import Levels, Metrics, registry
from gateway.model import Clock, SystemClock
from gateway.obtaining import Obtaining
from gateway.outcome import Sender
from gateway.pipeline import Gateway
from gateway.quotas import Quotas
from gateway.reading import Reading
from gateway.redash.answers import queries_on
from gateway.results import Results
from gateway.status.recorder import Both, StatusRecorder
from gateway.status.report import report
from gateway.status.values import Report
from gateway.store.factory import open_store
from gateway.telling import Telling
from gateway.tracing import Tracing
from gateway.upstream import Upstream
from gateway.warm import Warmer
from gateway.web import Api

events = logging.getLogger("gateway.events")

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: dashboards open many at once."""


class Program:
    """One running gateway: its parts, its listeners, and what an operator may ask of it."""

    def __init__(self, settings: config.Config, *, source: Path | None = None, clock: Clock | None = None) -> None:
        if getattr(http_parser, "HttpRequestParserC", None) is not http_parser.HttpRequestParser:
            raise StoreError("aiohttp's C parser is missing; install a binary wheel of aiohttp.")
        self.settings = settings
        self._source = source
        self._clock: Clock = clock or SystemClock()
        self._reloaded_at = time.time()
        self._reload_successful = True
        self._serving = False
        self._runners: list[web.BaseRunner] = []
        self._tls: ssl.SSLContext | None = None
        self._build()

    def _build(self) -> None:
        settings, clock = self.settings, self._clock
        self.access = Access(settings)
        self.store, self.ledger = open_store(
            settings.cache.store,
            memory_bytes=settings.cache.memory,
            disk_bytes=settings.cache.disk,
            max_entry_bytes=settings.cache.max_entry,
            clock=clock,
            lock_wait_seconds=settings.server.drain_timeout,
        )
        self.metrics = Metrics(self._levels, self.access.credentials, settings.metrics.per_query)
        self.tracing = Tracing(settings.tracing.endpoint, clock) if settings.tracing.endpoint else None
        self.teller = Telling(self.metrics, access_log=settings.log.access, tracing=self.tracing)
        self.recorder = StatusRecorder(clock.monotonic)
        told = Both(self.teller, self.recorder)
        self.upstream = Upstream(settings.upstream, clock, told, self.store.spool_path)
        self.definitions = Definitions(self.upstream, self.store, self.ledger, clock)
        self.results = Results(self.upstream, self.store, self.ledger, clock)
        self.quotas = Quotas(settings.clients, clock)
        self.bindings = Bindings(self.upstream, self.definitions, clock)
        self.metadata = Metadata(settings, self.upstream, self.definitions, self.bindings, clock)
        runner = Runner(self.upstream, self.results, clock)
        self.executions = Executions(
            runner, self.definitions, self.ledger, clock, told, settings, changed=self._query_changed
        )
        obtaining = Obtaining(self.results, self.executions, clock)
        self.reading = Reading(settings, self.definitions, self.results, self.ledger, clock)
        self.gateway = Gateway(
            settings,
            access=self.access,
            quotas=self.quotas,
            bindings=self.bindings,
            definitions=self.definitions,
            results=self.results,
            obtaining=obtaining,
            jobs=Jobs(self.executions, self.upstream, self.ledger, clock),
            reading=self.reading,
            metadata=self.metadata,
            clock=clock,
            slug=_slug(settings),
        )
        self.lane = HitLane(self.store, told, clock)
        self.lane.each = settings.log.access or settings.tracing.endpoint is not None
        self.definitions.on_doubt = self.lane.forget_query
        self.api = Api(lambda: self.gateway, told, clock, self.lane)
        self.warmer = Warmer(self.gateway, self.executions, self.upstream, clock, breaker=self.upstream.breaker)

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
        self._tls = _tls(server)
        runner = web.ServerRunner(self.api.server(), shutdown_timeout=1.0)  # `drain` has waited before
        self.api_address = await self._listen(runner, server.listen, self._tls)
        admin = Admin(self, registry(self.metrics), lambda: self.settings.admin.token_sha256)
        admin_runner = web.AppRunner(admin.application(), access_log=None, shutdown_timeout=2.0)
        self.admin_address = await self._listen(admin_runner, self.settings.admin.listen, None)
        self._serving = True
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

    async def stop(self) -> None:
        """Stop listening, let open requests finish within `drain_timeout`, leave executions to be resumed."""
        self._serving = False
        for site in [site for runner in self._runners for site in runner.sites]:
            await site.stop()
        self.gateway.draining = True
        self.executions.release_waiters()
        await self.api.drain(self.settings.server.drain_timeout)
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        await self.warmer.stop()
        await self.executions.close()
        await self.metadata.land()
        await self.bindings.land()
        await self.definitions.land()
        await self.results.land()
        await self.upstream.close()
        await self.store.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    # -- Operator --------------------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        """Whether requests are served. Redash being down is reported, not unready."""
        tiers = self.store.stats()
        parts = {
            "store": "up" if all(t.up for t in tiers) else "down",
            "redash": "unreachable" if self.upstream.breaker.is_open else "up",
        }
        return self._serving, parts

    def status(self) -> Report:
        """Return the state of everything, for people and scripts."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        return report(self, self._levels(), ready=self._serving, now=now, wall=wall)

    async def purge(self, what: Mapping[str, object]) -> int:
        """Forget results of a query, of a scope, or all."""
        query, scope = what.get("query"), what.get("scope")
        if isinstance(query, int) and not isinstance(query, bool):
            self.definitions.drop(query)
            return await self.results.purge(query_id=query)
        if isinstance(scope, str):
            credential = self.access.credentials.get(scope)
            return await self.results.purge(scope=credential.scope if credential else scope)
        if what.get("all") is True:
            return await self.results.purge()
        if isinstance(what.get("dashboard"), int):
            return await self._purge_dashboard(int(str(what["dashboard"])))
        raise BadRequest('Send one of {"query": 42}, {"dashboard": 3}, {"scope": "…"}, {"all": true}.')

    async def _purge_dashboard(self, dashboard: int) -> int:
        """Forget the results of every query on a dashboard, as the first user credential that may see it tells."""
        for credential in self.access.credentials.values():
            if credential.is_query_key:
                continue
            call = Call(method="GET", path=f"/api/dashboards/{dashboard}", route="/api/dashboards/{dashboard}")
            answer = await self.upstream.send(credential, call, Sender("gateway", "purge"))
            if answer.status == 200:
                return sum([await self.results.purge(query_id=q) for q in queries_on(answer.body.load())])
        raise BadRequest(f"None of the user credentials can read dashboard {dashboard} in Redash.")

    async def reload(self) -> list[str]:
        """Read the configuration again: all or nothing. Listen addresses and the store need a restart.

        Raises:
            ConfigurationError: it has mistakes; nothing has changed.
        """
        if self._source is None:
            raise ConfigurationError(["this gateway was started without a configuration file"])
        try:
            settings = config.load(self._source, os.environ)
            tls = _tls(settings.server)
        except ConfigurationError:
            self._reload_successful = False
            raise
        except (OSError, ssl.SSLError) as error:
            self._reload_successful = False
            raise ConfigurationError([f"{self._source}: server.tls_cert: cannot be used: {error}"]) from None
        notes = self._needs_restart(settings, tls)
        self._apply(settings)
        return notes

    def _needs_restart(self, settings: config.Config, tls: ssl.SSLContext | None) -> list[str]:
        old = self.settings
        kept = {
            "server.listen": old.server.listen != settings.server.listen,
            "admin.listen": old.admin.listen != settings.admin.listen,
            "cache.store": old.cache.store != settings.cache.store,
            "cache.memory, cache.disk or cache.max_entry": (old.cache.memory, old.cache.disk, old.cache.max_entry)
            != (settings.cache.memory, settings.cache.disk, settings.cache.max_entry),
            "tracing.endpoint": old.tracing.endpoint != settings.tracing.endpoint,
            "server.tls_cert": (self._tls is None) != (tls is None),
        }
        return [f"{name} has changed; this takes a restart" for name, changed in kept.items() if changed]

    def _apply(self, settings: config.Config) -> None:
        self.settings = self.gateway.settings = self.executions.settings = settings
        self.reading.settings = self.metadata.settings = settings
        self.access = self.gateway.access = Access(settings)
        self.gateway.slug = _slug(settings)
        self.quotas.configure(settings.clients)
        self.lane.clear()
        self.lane.each = settings.log.access or settings.tracing.endpoint is not None
        self.api.cut_off(self.access)
        self.upstream.configure(settings.upstream)
        self.executions.slots.size = settings.upstream.max_executions
        self.teller.access_log = settings.log.access
        self.metrics.configure(self.access.credentials, settings.metrics.per_query)
        self.warmer.start(settings.warm)
        if self._tls is not None and settings.server.tls_cert and settings.server.tls_key:
            self._tls.load_cert_chain(settings.server.tls_cert, settings.server.tls_key)
        self._reload_successful, self._reloaded_at = True, time.time()
        events.info("configuration loaded again")

    def _levels(self) -> Levels:
        self.lane.flush()
        running = self.executions.running
        return Levels(
            executions_in_flight=len(running),
            execution_waiters=sum(x.waiters for x in running),
            upstream_queue=self.executions.slots.queued + self.upstream.slots.queued,
            breaker_open=self.upstream.breaker.is_open,
            tiers=self.store.stats(),
            reload_successful=self._reload_successful,
            reloaded_at=self._reloaded_at,
            warm=self.warmer.counts(),
            log_lines_dropped=log.lines_dropped(),
        )


def _slug(settings: config.Config) -> str:
    return urlsplit(settings.upstream.url).path.strip("/")


def _tls(server: config.Server) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert, server.tls_key)
    return context
