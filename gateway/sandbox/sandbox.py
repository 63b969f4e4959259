"""The sandbox as programs use it: start and stop, keys, edits directly in Redash, holds, faults, counters."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import (
    api_account,
    api_dashboards,
    api_execute,
    api_groups,
    api_jobs,
    api_queries,
    api_results,
    api_sources,
    sample_objects,
    sample_tables,
)
from .counters import Counters, LoggedRequest
from .database import Database
from .dispatcher import Dispatcher
from .faults import Faults
from .jobs import Hold, Jobs
from .listener import Listener
from .objects import Query
from .results import Result
from .schedules import Scheduler
from .state import State
from .versions import NEWEST, VERSIONS
from .warehouse import Run, Table, Warehouse

WAIT_SECONDS = 10.0
_MODULES = (api_account, api_dashboards, api_execute, api_groups, api_jobs, api_queries, api_results, api_sources)
"""Importing them fills the table of routes."""


class Sandbox:
    """A Redash in this process. Everything is in memory; two sandboxes share nothing.

    `now` is the clock in Unix seconds for all that is dated; `start_latency` is how many seconds an execution waits
    before it starts; `orders` is the size of the shop; `slug` turns several organisations on (CONTRACT 17) with the
    first one under that slug; `samples=False` leaves out all sample objects, `fill` replaces the sample tables;
    `redash` is the version that it speaks, a name in `VERSIONS`.
    """

    def __init__(
        self,
        seed: int = 1,
        workers: int = 4,
        now: Callable[[], float] = time.time,
        start_latency: float = 0.0,
        *,
        orders: int = 2_000,
        slug: str | None = None,
        samples: bool = True,
        fill: Callable[[sqlite3.Connection], None] | None = None,
        redash: str = NEWEST,
    ) -> None:
        self.counters = Counters()
        self.faults = Faults()

        def clock() -> float:
            return now() + self.faults.clock_skew

        self.version = version = VERSIONS[redash]
        self.database = Database(seed, clock, version)
        self.warehouse = Warehouse(clock)
        at, counters, is_multi = self.database.now, self.counters, slug is not None
        self.jobs = Jobs(self.warehouse, counters, at, version, workers=workers, start_latency=start_latency)
        self.state = State(version, self.database, self.jobs, counters, self.faults, self.warehouse.schema, is_multi)
        self.dispatcher = Dispatcher(self.state)
        self.scheduler = Scheduler(self.state)
        if slug is not None:
            self.database.orgs = {slug: 1}
        self.url = ""
        self.named: dict[str, int] = {}
        self._fill = fill or sample_tables.filler(orders, seed)
        self._samples = samples
        self.listener = Listener(self.dispatcher.handle)
        self._prepared = False
        if samples:
            self._make_samples()

    def _make_samples(self) -> None:
        self.named = sample_objects.populate(self.database)
        for short, query_id in self.named.items():
            if sample_objects.has_first_result(short, self.version):
                self.add_first_result(query_id)
        self.database.edit(self.queries[self.named["archived"]], {"is_archived": True})

    def prepare(self) -> None:
        """Builds the tables once; `start` calls it, too."""
        if not self._prepared:
            self.warehouse.build(self._fill)
            self._prepared = True

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens and sets `url`; port 0 means any free port."""
        await asyncio.to_thread(self.prepare)
        self.url = await self.listener.open(host, port)

    async def stop(self) -> None:
        """Ends faults and holds, interrupts runs, closes the port."""
        self.faults.clear()
        self.release()
        await self.scheduler.stop()
        await self.jobs.stop()
        await self.disconnect()
        self.warehouse.close()

    async def disconnect(self) -> None:
        """Closes the port, like a Redash that is down: connections are refused. All objects stay."""
        await self.listener.close()

    async def reconnect(self) -> None:
        """Listens again on the same port."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.url = await self.listener.open(host, int(port))

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- keys

    @property
    def user_keys(self) -> dict[str, str]:
        """API keys by the last word of the user's name in lower case: admin, analyst, viewer, outsider."""
        return {user.name.split()[-1].lower(): user.api_key for user in self.database.users.values()}

    def query_key(self, query_id: int) -> str:
        """The key of one query."""
        return self.queries[query_id].api_key

    def dashboard_token(self, dashboard_id: int) -> str:
        """The oldest active public token; makes one if the dashboard has none."""
        board = self.database.dashboards[dashboard_id]
        if not board.tokens:
            board.tokens.append(self.database.new_key())
        return board.tokens[0]

    # -- changes made directly in Redash

    @property
    def queries(self) -> dict[int, Query]:
        """All queries by id. Change them with `edit_query`."""
        return self.database.queries

    def edit_query(self, query_id: int, **changes: Any) -> Query:
        """Like an edit in Redash: moves updated_at, recomputes hash and newest result (CONTRACT 11)."""
        self.database.edit(self.queries[query_id], changes)
        return self.queries[query_id]

    def add_query(
        self,
        name: str,
        query: str,
        *,
        parameters: Sequence[Mapping[str, Any]] = (),
        data_source_id: int | None = sample_objects.SHOP,
        user_id: int = 1,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """Adds a published query without a result; returns its id, which `more` may set."""
        settings = {"parameters": [dict(definition) for definition in parameters], **(options or {})}
        more.setdefault("is_draft", False)
        return self.database.add_query(name, query, data_source_id, user_id, options=settings, **more).id

    def sql_of(self, query_id: int, parameters: Mapping[str, Any] | None = None) -> str:
        """The SQL text of an execution that a POST without `apply_auto_limit` starts, by default with the defaults."""
        query = self.queries[query_id]
        values = {each["name"]: each.get("value") for each in query.parameters} if parameters is None else parameters
        text = self.database.applied(query.query, query.parameters, values, query.org)
        limit = self.version.post_limits_like_query and query.options.get("apply_auto_limit")
        return self.database.executed(text, bool(limit))

    def _run(self, query: Query, sql: str, *, sleeps: bool = True) -> Run:
        typed = self.database.is_typed(query.data_source_id)
        return Run(self.warehouse, sql, query.data_source_id, sleeps=sleeps, typed=typed)

    def add_first_result(
        self, query_id: int, parameters: Mapping[str, Any] | None = None, *, runtime: float | None = None
    ) -> Result:
        """Stores a result as of now, by default with the default values; the rows are loaded when it is first read."""
        query, sql = self.queries[query_id], self.sql_of(query_id, parameters)
        load = self._run(query, sql, sleeps=False).execute
        took = query.runtime if runtime is None else runtime
        result = self.database.new_result(sql, query.data_source_id or 0, load=load, runtime=took)
        self.database.put_result(result)
        return result

    def add_result(
        self,
        query_id: int,
        columns: Sequence[tuple[str, str | None]],
        rows: Sequence[Mapping[str, Any]],
        *,
        parameters: Mapping[str, Any] | None = None,
        retrieved_at: float | None = None,
    ) -> Result:
        """Stores a result with these columns (name, type) and rows; runs nothing."""
        heads = [{"name": name, "friendly_name": name, "type": kind} for name, kind in columns]
        table = Table(heads, [dict(row) for row in rows], 0.01)
        at = None if retrieved_at is None else round(retrieved_at * 1_000_000)
        source_id = self.queries[query_id].data_source_id or 0
        sql = self.sql_of(query_id, parameters)
        result = self.database.new_result(sql, source_id, table=table, retrieved_at=at)
        self.database.put_result(result)
        return result

    async def execute_directly(self, query_id: int, parameters: Mapping[str, Any] | None = None) -> Result:
        """A run that does not pass the gateway: it stores a newer result. It is not counted."""
        query, sql = self.queries[query_id], self.sql_of(query_id, parameters)
        table = await asyncio.to_thread(self._run(query, sql).execute)
        result = self.database.new_result(sql, query.data_source_id or 0, table=table)
        self.database.put_result(result)
        return result

    def lose_jobs(self) -> None:
        """Like FLUSHDB in Redash's Redis: every job id is unknown, nothing is joined, only what runs continues."""
        self.jobs.lose()

    def set_back(self, result_id: int) -> None:
        """Like a restore of a backup that was made after this result: later ones are gone, their ids begin again."""
        self.database.set_back(result_id)

    def clean_up(self) -> list[int]:
        """Removes old results like Redash; returns their ids."""
        return self.database.clean_up()

    # -- holds

    def hold(self, query_id: int | None = None) -> Hold:
        """Executions that start from now on stay started (status 2) until the hold is released."""
        return self.jobs.run_gate.hold(query_id)

    def hold_queue(self, query_id: int | None = None) -> Hold:
        """Executions stay queued (status 1) until the hold is released."""
        return self.jobs.queue_gate.hold(query_id)

    def release(self) -> None:
        """Releases all holds."""
        self.jobs.queue_gate.release()
        self.jobs.run_gate.release()

    # -- counting and waiting

    @property
    def log(self) -> deque[LoggedRequest]:
        """The last requests, oldest first."""
        return self.counters.log

    def reset_counters(self) -> None:
        """Sets all counters to zero and clears the log."""
        self.counters.reset()

    async def wait_executions(self, count: int, *, timeout: float = WAIT_SECONDS) -> None:
        """Waits until so many executions have started since the last reset. Like all waits it raises TimeoutError."""
        await self.counters.wait_until(lambda: self.counters.started >= count, timeout)

    async def wait_finished(self, count: int, *, timeout: float = WAIT_SECONDS) -> None:
        """Waits until so many executions have ended since the last reset."""
        await self.counters.wait_until(lambda: self.counters.finished >= count, timeout)

    async def wait_requests(self, count: int, *, timeout: float = WAIT_SECONDS) -> None:
        """Waits until so many requests have arrived."""
        await self.counters.wait_until(lambda: self.counters.requests >= count, timeout)

    async def wait_idle(self, *, timeout: float = WAIT_SECONDS) -> None:
        """Waits until no execution is queued or running."""
        await self.counters.wait_until(lambda: self.jobs.idle, timeout)

    async def wait_until(self, ready: Callable[[], bool], *, timeout: float = WAIT_SECONDS) -> None:
        """Waits until this is true; it is checked at every request and every change of a job."""
        await self.counters.wait_until(ready, timeout)
