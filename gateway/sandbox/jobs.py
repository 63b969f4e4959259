"""Jobs: the queue in front of the workers, joining of identical executions, holds for tests, and cancelling
(CONTRACT 9). Runs in the event loop; only the SQL itself runs in threads.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import uuid4

from .counters import Counters
from .timestamps import SECOND, job_timestamp
from .versions import Version
from .warehouse import NoDataError, Run, Table, Warehouse

QUEUED, STARTED, FINISHED, FAILED = 1, 2, 3, 4
_CANCELLED = "Query cancelled by user."
_REVOKED = "Query execution cancelled."
"""The text of a job that was cancelled before a worker took it, where it waits for the worker."""

StoreResult = Callable[["Job", Table], Awaitable[int]]
"""Stores the rows of a job; returns the id of the new result."""


@dataclass
class Job:
    """`result` is a result id, or a schema for schema jobs."""

    sql: str
    query_hash: str
    data_source_id: int
    query_id: int | None
    store: StoreResult
    status: int = QUEUED
    started_at: int = 0
    ended_at: int = 0
    error: str = ""
    result: Any = None
    run: Run | None = None
    broken: bool = False
    revoked: bool = False
    lost: bool = False
    typed: bool = True
    id: str = field(default_factory=lambda: str(uuid4()))

    def body(self, version: Version) -> dict[str, Any]:
        """As Redash prints it."""
        at = job_timestamp(self.started_at) if self._has_time(version) else 0
        return job_body(version, self.id, at, self.status, self.error, self.result if self.status == FINISHED else None)

    def _has_time(self, version: Version) -> bool:
        if self.status == STARTED:
            return version.job_has_time
        return self.error == _CANCELLED and self.started_at > 0 and version.cancelled_job_has_time

    def settle(self, status: int, error: str = "", result: Any = None) -> None:
        """Ends the job. A cancelled job stays cancelled, whatever its run returns."""
        if self.error != _CANCELLED:
            self.status, self.error, self.result = status, error, result


def job_body(
    version: Version, id: str, updated_at: str | int = 0, status: int = QUEUED, error: str = "", result: Any = None
) -> dict[str, Any]:
    """A job as Redash prints it; by default one that it does not know, where that looks like a queued one."""
    job = {"id": id, "updated_at": updated_at, "status": status, "error": error}
    if version.job_has_result:
        job["result"] = result
    return {"job": {**job, "query_result_id": result}}


class Hold:
    """Stops executions (of one query, or all) until it is released. It can be used as a context manager."""

    def __init__(self, gate: Gate, query_id: int | None) -> None:
        self._gate = gate
        self.query_id = query_id

    def release(self) -> None:
        """Lets waiting executions continue; does nothing the second time."""
        self._gate.release(self)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Hold:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Gate:
    """A place where executions wait while a hold is active."""

    def __init__(self) -> None:
        self._holds: list[Hold] = []
        self._changed = asyncio.Event()

    def hold(self, query_id: int | None) -> Hold:
        """A new hold, for one query or all."""
        hold = Hold(self, query_id)
        self._holds.append(hold)
        return hold

    def release(self, hold: Hold | None = None) -> None:
        """Removes one hold, or all."""
        self._holds = [] if hold is None else [other for other in self._holds if other is not hold]
        self.recheck()

    def recheck(self) -> None:
        """Wakes the waiting executions, which check again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_open(self, job: Job) -> None:
        """Returns when no hold stops the job, or the job is cancelled or lost."""
        status, lost = job.status, job.lost
        while (job.status, job.lost) == (status, lost) and any(
            hold.query_id in (None, job.query_id) for hold in self._holds
        ):
            await self._changed.wait()


class Jobs:
    """All jobs, their queue and their workers."""

    def __init__(
        self,
        warehouse: Warehouse,
        counters: Counters,
        now: Callable[[], int],
        version: Version,
        *,
        workers: int,
        start_latency: float,
    ) -> None:
        self._warehouse = warehouse
        self._counters = counters
        self._now = now
        self._version = version
        self._latency = start_latency
        self._slots = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, "sandbox-worker")
        self._jobs: dict[str, Job] = {}
        self._in_flight: dict[tuple[str, int], Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs: set[Run] = set()
        self.queue_gate, self.run_gate = Gate(), Gate()

    def start(self, job: Job) -> Job:
        """Returns an identical execution in flight (same hash and source, any caller), otherwise queues this one."""
        running = self._in_flight.get((job.query_hash, job.data_source_id))
        if running is not None:
            return running
        self._in_flight[job.query_hash, job.data_source_id] = job
        self.add(job)
        task = asyncio.create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return job

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counters.notify()

    def add(self, job: Job) -> None:
        """Makes a job readable by its id."""
        self._jobs[job.id] = job
        self._counters.job_queued()

    def get(self, job_id: str) -> Job | None:
        """The job with this id, None if it is unknown or expired."""
        job = self._jobs.get(job_id)
        if job is not None and job.ended_at and self._now() > job.ended_at + self._lifetime(job):
            del self._jobs[job_id]
            return None
        return job

    def _lifetime(self, job: Job) -> int:
        """How long Redash keeps a job after its end, in microseconds (CONTRACT 9)."""
        version = self._version
        return SECOND * (version.finished_job_seconds if job.status == FINISHED else version.failed_job_seconds)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        return not self._tasks

    def is_running(self, query_hash: str, data_source_id: int) -> bool:
        """Whether an identical execution would join one in flight."""
        return (query_hash, data_source_id) in self._in_flight

    def cancel(self, job: Job) -> None:
        """Cancels at once, even a finished job; nothing joins it from now on (CONTRACT 9). Not so in old versions."""
        if job.status in (FINISHED, FAILED) and not self._version.finished_job_can_be_cancelled:
            return
        if job.status == QUEUED and self._version.queued_job_waits_to_be_cancelled:
            job.revoked = True
            return
        job.settle(FAILED, _CANCELLED)
        self._unlock(job)
        self.queue_gate.recheck()
        self.run_gate.recheck()
        if job.run is not None:
            job.run.cancel()

    def lose(self) -> None:
        """Like FLUSHDB in Redis, or its restart without persistence: every job id is unknown and nothing is joined.
        Queued jobs never run; runs continue, but nobody learns their end from a job."""
        for job in self._jobs.values():
            job.lost = job.status == QUEUED
        self._jobs.clear()
        self._in_flight.clear()
        self.queue_gate.recheck()

    async def stop(self) -> None:
        """Interrupts all runs and waits for the threads."""
        for run in list(self._runs):
            run.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def _unlock(self, job: Job) -> None:
        key = job.query_hash, job.data_source_id
        if self._in_flight.get(key) is job:
            del self._in_flight[key]

    async def _work(self, job: Job) -> None:
        try:
            async with self._slots:
                await self._take(job)
        finally:
            self._unlock(job)
            if job.status in (FINISHED, FAILED):
                job.ended_at = self._now()

    async def _take(self, job: Job) -> None:
        if self._latency:
            await asyncio.sleep(self._latency)
        await self.queue_gate.wait_open(job)
        if job.revoked:
            job.settle(FAILED, _REVOKED)
        if job.lost or job.status != QUEUED:
            return
        job.status, job.started_at = STARTED, self._now()
        self._counters.execution_started(job.query_id)
        await self.run_gate.wait_open(job)
        await self._run(job)
        self._counters.execution_finished(job.query_id)

    async def _run(self, job: Job) -> None:
        if job.status != STARTED:
            return
        if job.broken:  # the worker fails outside the query: status 4 with an empty error (CONTRACT 9)
            job.settle(FAILED)
            return
        job.run = run = Run(self._warehouse, job.sql, job.data_source_id, typed=job.typed)
        self._runs.add(run)
        try:
            table = await asyncio.get_running_loop().run_in_executor(self._threads, run.execute)
        except (sqlite3.Error, NoDataError) as error:
            job.settle(FAILED, str(error))
            return
        finally:
            self._runs.discard(run)
        # Redash unlocks before it stores the result: in between, an identical request starts again (CONTRACT 9).
        self._unlock(job)
        if job.status == STARTED:
            job.settle(FINISHED, result=await job.store(job, table))
