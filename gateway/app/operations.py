"""The operations on a running gateway: readiness, status, purge, reload."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import ssl
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway import config
from gateway.admin.operations import PURGED, Operations, Purged, Reloaded
from gateway.admin.report import Report, Running
from gateway.admin.report_builder import Parts, build_report, rows_of
from gateway.admin.rows import Rows
from gateway.app.runtime import Runtime
from gateway.app.settings import load
from gateway.app.tls import client_context, server_context
from gateway.errors import BadRequest, ConfigurationError, NotFound, UpstreamRefused
from gateway.executions.explanation import Explanation, Question
from gateway.model import SLUG
from gateway.outcome import Sender
from gateway.policy.configured import Configured
from gateway.redash.purges import purge_of

events = logging.getLogger("gateway.events")

LOAD_SECONDS: Final = 60.0
"""A file on a network that does not respond must not hold up the next reload for ever."""

NOT_PURGED: Final = "Redis is unavailable: the other gateways purge this as soon as they share it again"


class RuntimeOperations:
    """The operations on one `Runtime`. `source` is its configuration file, None for the demo.

    `listen`, addresses, is used instead of the file's `server.listen`.
    """

    def __init__(self, runtime: Runtime, source: Path | None, listen: Sequence[str] | None = None) -> None:
        self._runtime = runtime
        self._source = source
        self._listen = listen
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        if (sharing := runtime.sharing) is not None:
            sharing.on_reload(lambda: self._start(reload_and_log(self)))
            sharing.on_purge(self._purged_elsewhere)
            sharing.on_new_data(runtime.results.cache.note_new_data)
            runtime.executions.purging.on_new_data = sharing.announce_new_data

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ready(self) -> tuple[bool, Mapping[str, object]]:
        """Return whether requests are served, and the state of the parts. An outage of Redash is only reported."""
        parts = {
            "store": "up" if all(t.up for t in self._runtime.store.stats()) else "down",
            "redash": "unreachable" if self._runtime.upstream.breaker.is_open else "up",
        }
        return self._runtime.serving, parts

    def status(self) -> Report:
        """Return the state of all parts, for people and scripts."""
        clock = self._runtime.clock
        levels, serving = self._runtime.levels(), self._runtime.serving
        return build_report(self._parts(), levels, ready=serving, now=clock.monotonic(), wall=clock.wall())

    def _parts(self) -> Parts:
        runtime = self._runtime
        return Parts(
            runtime.live.settings,
            runtime.live.access,
            runtime.quotas,
            runtime.executions.budgets,
            runtime.results.definitions,
            runtime.telemetry.recorder,
            runtime.executions.flights,
            runtime.upstream,
            runtime.warmer,
            runtime.results.organisation,
        )

    def rows(self) -> Rows:
        """Return what makes the rows of the console's tables, as of now."""
        self._runtime.levels()  # this records what waits to be
        return rows_of(self._parts(), self._runtime.clock.monotonic(), self._runtime.clock.wall())

    def run(self, execution_id: str) -> Running | None:
        """Return a run in progress, None if it has ended."""
        execution = self._runtime.executions.flights.current.by_id(execution_id)
        return self.rows().running(execution) if execution is not None else None

    async def explain(self, question: Question) -> Explanation:
        """Say what would happen with a request now, and why the last one of its kind was a miss.

        Raises:
            BadRequest: there is no such client, or the question cannot be a request.
        """
        explanation = await self._runtime.executions.explainer.explain(question)
        key, runtime = bytes.fromhex(explanation.key), self._runtime
        runtime.levels()  # this records what waits to be
        if (missed := runtime.telemetry.recorder.last_miss(key)) is not None:
            ago = max(0.0, runtime.clock.monotonic() - missed.ended)
            explanation.note_miss(missed.cause, ago, missed.client, missed.request_id)
        return explanation

    async def purge(self, what: Mapping[str, object]) -> Purged:
        """Delete the results of a query, of the queries of a data source, with a tag or on a dashboard, of a scope (by
        its credential's name), or all.

        The store tells the gateways that share it; they do what `_purged_elsewhere` does.

        Raises:
            BadRequest: `what` is none of these, or names something unknown.
        """
        count, notes = await self._purge_named(what)
        sharing = self._runtime.sharing
        return Purged(count, [*notes, *([NOT_PURGED] if sharing is not None and not sharing.stats().up else [])])

    async def _purge_named(self, what: Mapping[str, object]) -> tuple[int, list[str]]:
        if (named := purge_of(what)) is not None:
            if named.query is not None:  # in whatever scope, also of credentials that are not configured any more
                return await self._purge(query_id=named.query), []
            scopes = {credential.scope for credential in self._runtime.live.access.credentials.values()}
            purged = await self._runtime.executions.purging.purge(named, scopes)
            return purged.entries, purged.notes
        return await self._purge_other(what), []

    async def _purge_other(self, what: Mapping[str, object]) -> int:
        match dict(what):
            case {"dashboard": int(dashboard)} if _is_id(dashboard):
                return await self._purge_dashboard(dashboard)
            case {"dashboard": str(slug)} if re.fullmatch(SLUG, slug):
                return await self._purge_dashboard(slug)
            case {"scope": str(name)}:
                return await self._purge_scope(name)
            case {"all": True}:
                return await self._purge()
        raise BadRequest(f"Send one of {PURGED}.")

    async def _purge(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        return await self._runtime.executions.purging.delete(scope, query_id)

    def _purged_elsewhere(self, scope: str | None, query_id: int | None) -> None:
        """Do the rest of a purge by another gateway: what is under way here is not stored, and nothing is sent again.

        The store has dropped what it had in memory. An edit comes here as a purge of the query, too.
        """
        self._runtime.results.cache.note_purge(scope=scope, query_id=query_id)
        if query_id is not None:
            self._runtime.results.definitions.drop(query_id)
        else:
            self._runtime.api.cache.clear()
        self._start(self._runtime.executions.flights.purge(scope=scope, query_id=query_id))

    async def _purge_scope(self, name: str) -> int:
        credential = self._runtime.live.access.credentials.get(name)
        if credential is None:
            known = ", ".join(sorted(self._runtime.live.access.credentials))
            raise BadRequest(f"A scope is named by its credential, one of: {known}.")
        return await self._purge(scope=credential.scope)

    async def _purge_dashboard(self, dashboard: int | str) -> int:
        """Delete the results of every query on a dashboard, read with the first user credential that may read it."""
        for credential in self._runtime.live.access.credentials.values():
            if credential.is_query_key:
                continue
            try:
                queries = await self._runtime.results.dashboards.queries_on(
                    credential, dashboard, Sender("gateway", "purge")
                )
            except UpstreamRefused:
                continue
            return sum([await self._purge(query_id=query) for query in queries])
        raise BadRequest(f"None of the user credentials can read dashboard {dashboard} in Redash.")

    async def end_run(self, execution_id: str) -> bool:
        """Cancel a run for all its callers; False if that is not possible now.

        Raises:
            NotFound: it has ended, or never was.
        """
        execution = self._runtime.executions.flights.current.by_id(execution_id)
        if execution is None:
            raise NotFound("this run has ended.")
        events.info("an operator cancels a run", extra={"fields": {"execution": execution.id}})
        return await self._runtime.executions.cancelling.end(execution, Sender("gateway", "end-run"))

    async def reload(self, *, everywhere: bool = False) -> Reloaded:
        """Load the configuration again, all or nothing; returns what has changed, and what the operator should know.

        A second reload waits for the first: the file that was read last is in force in the end. With `everywhere`, the
        gateways that share the store then load their own files, each by itself; mistakes there are in their logs.

        Raises:
            ConfigurationError: it has mistakes, or the gateway is stopping; nothing has changed.
        """
        if self._source is None:
            raise ConfigurationError(["this gateway was started without a configuration file"])
        async with self._reloading:
            with self._runtime.supervisor.reloading():
                reloaded = await self._load(self._source)
        changed = ", ".join(reloaded.changed)
        events.info("configuration loaded again%s", f"; changed: {changed}" if changed else "")
        return Reloaded(reloaded.changed, [*reloaded.notes, *await self._tell_others()]) if everywhere else reloaded

    async def _tell_others(self) -> list[str]:
        sharing = self._runtime.sharing
        if sharing is None:
            return []
        others = [name for name, _ in sharing.stats().gateways if name != self._runtime.name]
        if not await sharing.announce_reload():
            return ["Redis is unavailable: only this gateway has loaded its configuration again"]
        if not others:
            return []
        whose = "was asked to load its own file" if len(others) == 1 else "were asked to load their own files"
        return [f"{', '.join(others)} {whose}; the log there says whether it has mistakes"]

    async def _load(self, source: Path) -> Reloaded:
        """Load the file and put it in force. Raises as `reload`."""
        try:
            loaded = await _loaded(source, self._listen)
            accepted = await self._runtime.results.identities.adopt(loaded.configured.access)
        except ConfigurationError:
            self._runtime.reload.successful = False
            raise
        if not self._runtime.serving:
            raise ConfigurationError(["the gateway is stopping, or does not serve yet"])
        settings = loaded.configured.settings
        before = self._runtime.live.settings
        changed, restart = config.changes(before, settings), config.restart_needed(self._runtime.started_with, settings)
        keys = {name: accepted.get(name) for name in config.new_keys(before, settings)}
        self._runtime.reconfigure(loaded.configured, loaded.upstream_tls)
        self._runtime.telemetry.keys_changed(keys)
        return Reloaded(changed, [*(f"{key} has changed; this takes a restart" for key in restart), *_doubts(keys)])


def _doubts(keys: Mapping[str, bool | None]) -> Iterator[str]:
    """Say of each new key if Redash does not accept it, or if that is not known yet."""
    for name, accepted in keys.items():
        if accepted is False:
            yield f"credentials.{name}: Redash does not accept the new key"
        elif accepted is None:
            yield f"credentials.{name}: the new key has not been used yet; `check --online` says if Redash accepts it"


async def reload_and_log(operations: Operations) -> None:
    """Load this gateway's own file; what is to be said of it goes to the log, because nobody waits for it."""
    try:
        for note in (await operations.reload()).notes:
            events.warning("reload: %s", note)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            events.error("reload: %s", mistake)


class _Loaded(NamedTuple):
    configured: Configured
    upstream_tls: ssl.SSLContext


async def _loaded(source: Path, listen: Sequence[str] | None) -> _Loaded:
    """Read and check the file, and make what depends on it alone, off the event loop: thousands of clients take long.

    Raises:
        ConfigurationError: it has mistakes, or takes too long.
    """
    gc.disable()  # it would look again and again through tables that live for a second, and stop the loop for it
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            return await asyncio.to_thread(_load, source, listen)
    except TimeoutError:
        text = f"reading it and the files that it names took longer than {LOAD_SECONDS:g} s"
        raise ConfigurationError([f"{source}: {text}"]) from None
    finally:
        gc.enable()


def _load(source: Path, listen: Sequence[str] | None) -> _Loaded:
    settings = load(source, listen)
    server_context(settings.server)  # the listener keeps its own; this one only checks the files
    return _Loaded(Configured.of(settings), client_context(settings.upstream))


def _is_id(value: int) -> bool:
    """Whether it can be the id of a query or dashboard: neither a boolean nor beyond what stores hold."""
    return not isinstance(value, bool) and 0 <= value < 2**63
