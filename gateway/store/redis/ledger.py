"""The ledger that several gateways share: in Redis, with the newest records of this gateway in memory too.

Redis is asked first; memory answers while it is down, and what could not be written is written before it is used again.
A run that this gateway has seen to its end, while Redis has another end of it, is parted: with the jobs that were given
out here it becomes a run of its own, as only this end is known to be good for them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from gateway.model import UNASKED, Clock, ExecutionRecord, JobRecord
from gateway.store.memory_ledger import LIFETIME_SECONDS, MOST_SCOPES, MemoryLedger, select_unfinished, sort_by_age
from gateway.store.redis import ledger_layout as layout
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.packing import Packing, R
from gateway.store.redis.scripts import Script
from gateway.store.redis.times import monotonic

T = TypeVar("T")

GIVEN_UP: Final = (UnavailableError, RefusedError)

MEMORY_BYTES: Final = 16 * 2**20
MEMORY_RESULTS: Final = 50_000
MOST_RESULTS: Final = 1_000_000
MOST_UNWRITTEN: Final = 20_000
AT_ONCE: Final = 100
AGAIN_SECONDS: Final = 0.05
SWEEP_STEPS: Final = 20

Ids = tuple[str, int, int]
"""Scope (its digest) and result id, and the query id."""


class RedisLedger:
    """`limit_bytes`: of executions, and as much of jobs, of all gateways together; the oldest are deleted first."""

    def __init__(self, link: Link, clock: Clock, *, limit_bytes: int) -> None:
        self._link = link
        self._limit = limit_bytes
        self._packing = Packing(link.time)
        self._results = min(MOST_RESULTS, max(1_000, limit_bytes // layout.RESULT_BYTES))
        self._recent = MemoryLedger(clock, limit_bytes=MEMORY_BYTES, results=MEMORY_RESULTS)
        self.purges, self.record_purges = self._recent.purges, self._recent.record_purges
        self.spending, self.record_spending = self._recent.spending, self._recent.record_spending
        self._unwritten: dict[str, ExecutionRecord | JobRecord] = {}
        self._seen_results: dict[Ids, bytes] = {}  # not written yet
        self._epoch = ""
        link.on_up.append(self._catch_up)
        link.subscribe("run", self._heard)

    # -- Ledger

    @property
    def ready(self) -> bool:
        """See the protocol."""
        return self._link.up

    async def record_execution(self, record: ExecutionRecord) -> None:
        """See the protocol. A record under a newer lease stays, as does an end."""
        known = self._recent.get_execution(record.id)
        if known is None or known.status < 3 or record.status >= 3:
            self._recent.put_execution(record)
        await self._record(record)

    async def record_job(self, job: JobRecord) -> None:
        """See the protocol."""
        self._recent.put_job(job)
        await self._record(job)

    async def job(self, job_id: str) -> JobRecord | None:
        """See the protocol."""
        recent, name = self._recent.get_job(job_id), f"{self._link.base}j:{job_id}"
        packed = await self._patiently(lambda: self._link.command("HGET", name, "v"), recent)
        found = self._packing.unpack(packed, JobRecord) or recent
        return found if found is not None and found.noted_at >= self._recent.oldest_time() else None

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See the protocol."""
        recent, name = self._recent.get_execution(execution_id), f"{self._link.base}x:{execution_id}"
        packed = await self._patiently(lambda: self._link.command("GET", name), recent)
        found = self._packing.unpack(packed, ExecutionRecord) or recent
        return found if found is not None and found.started_at >= self._recent.oldest_time() else None

    async def unfinished(self) -> list[ExecutionRecord]:
        """See the protocol; those of all gateways."""
        found = {record.id: record for record in self._recent.executions()}
        found.update((record.id, record) for record in await self._scan(ExecutionRecord, layout.UNFINISHED))
        for record in [record for record in found.values() if record.status < 3]:  # it may have ended elsewhere
            found[record.id] = await self.execution(record.id) or record
        return select_unfinished(found.values(), self._recent.oldest_time())

    async def jobs_of(self, execution_id: str) -> list[JobRecord]:
        """See the protocol."""
        found = {job.id: job for job in self._recent.get_jobs_of(execution_id)}
        found.update((job.id, job) for job in await self._scan(JobRecord, layout.JOBS_OF, execution_id))
        return sort_by_age(found.values(), self._recent.oldest_time())

    async def record_result(self, scope: str, result_id: int, query_id: int, identity: bytes = b"") -> None:
        """See the protocol; a recently recorded one costs nothing."""
        if self._recent.put_result(scope, result_id, query_id, identity):
            ids = (layout.scope_digest(scope), result_id, query_id)
            self._seen_results[ids] = identity or self._seen_results.get(ids, b"")
            if len(self._seen_results) > MOST_UNWRITTEN:
                del self._seen_results[next(iter(self._seen_results))]

    async def queries_of_result(self, scope: str, result_id: int) -> Mapping[int, bytes]:
        """See the protocol."""
        name = f"{self._link.base}i:{layout.scope_digest(scope)}:{result_id}"
        recent = self._recent.get_queries(scope, result_id)
        flat = await self._patiently(lambda: self._link.command("HGETALL", name), recent) or []
        found = {int(query): identity for query, identity in zip(flat[::2], flat[1::2], strict=True)}
        return {**recent, **found, **{query_id: identity for query_id, identity in recent.items() if identity}}

    async def has_results(self, scope: str) -> bool:
        """See the protocol."""
        name = f"{self._link.base}is:{layout.scope_digest(scope)}"
        return await self._recent.has_results(scope) or bool(await self._read(self._link.command("EXISTS", name)))

    async def scope_of(self, name: str) -> str | None:
        """See the protocol."""
        found = await self._read(self._link.command("HGET", f"{self._link.base}scopes", name))
        return None if found is None else found.decode()

    async def record_scope(self, name: str, scope: str) -> str | None:
        """See the protocol."""
        found = await self._read(self._link.call(layout.RECORD_SCOPE, name, scope, MOST_SCOPES))
        return None if found is None else found.decode()

    async def sweep(self) -> None:
        """Write result ids; delete what is older than 12 h, and the oldest of what is too much."""
        try:
            await self._write_results()
            oldest = self._link.time.now() - LIFETIME_SECONDS
            for _ in range(SWEEP_STEPS):
                if not await self._link.call(layout.SWEEP, oldest, self._limit):
                    return
        except GIVEN_UP:
            return

    # -- inside

    def _heard(self, payload: bytes) -> None:
        """Let no job come back from memory that was cancelled elsewhere."""
        what, _, *ids = payload.decode().split(" ")
        if what == "cancelled" and (job := self._recent.get_job("".join(ids))) is not None:
            self._recent.put_job(msgspec.structs.replace(job, cancelled=True))

    async def _record(self, record: ExecutionRecord | JobRecord) -> None:
        self._unwritten[record.id] = record
        try:
            await self._write_results()
            written = await self._write(record)
            if isinstance(record, ExecutionRecord) and await self._conclude([record], [] if written else [record]):
                await self._write_all(self._unwritten_jobs())
        except GIVEN_UP:
            while len(self._unwritten) > MOST_UNWRITTEN:
                del self._unwritten[next(iter(self._unwritten))]
            return
        self._note_written([record])

    async def _write(self, record: ExecutionRecord | JobRecord, *, only_missing: bool = False) -> bool:
        """Return whether it is what Redis has now."""
        missing = int(only_missing)
        if isinstance(record, ExecutionRecord):
            run = self._packing.shared(record)
            values = (run.id, msgspec.msgpack.encode(run), run.started_at, run.status, run.fence, missing)
            return bool(await self._link.call(layout.RECORD_EXECUTION, *values))
        newest = self._recent.get_job(record.id)  # it may have been cancelled while others were written
        job = self._packing.shared(newest or record)
        packed = msgspec.msgpack.encode(job)
        return bool(await self._link.call(layout.RECORD_JOB, job.id, packed, job.noted_at, job.execution_id, missing))

    async def _write_results(self) -> None:
        """Write what was seen before a record, before the record."""
        while self._seen_results:
            some = dict(list(self._seen_results.items())[:AT_ONCE])
            rows = [(f"{scope}:{result}", query, identity) for (scope, result, query), identity in some.items()]
            await self._link.call(layout.RECORD_RESULTS, self._results, *[value for row in rows for value in row])
            for ids, identity in some.items():
                if self._seen_results.get(ids) == identity:
                    del self._seen_results[ids]

    async def _catch_up(self) -> None:
        """Write what Redis lacks, before it is used again. Raises UnavailableError."""
        is_new = self._epoch != self._link.seen.epoch  # it may have been emptied
        runs = [record for record in self._unwritten.values() if isinstance(record, ExecutionRecord)]
        refused = await self._write_all(runs)
        if is_new:
            written = {run.id for run in runs}
            rest = [run for run in self._recent.executions() if run.id not in written]
            refused += await self._write_all(rest, only_missing=True)
        await self._conclude([*runs, *refused], refused)
        self._note_written(runs)
        await self._write_all(self._unwritten_jobs())
        if is_new:
            await self._write_all(self._recent.jobs(), only_missing=True)
        self._epoch = self._link.seen.epoch

    async def _conclude(self, runs: Iterable[ExecutionRecord], refused: Sequence[ExecutionRecord]) -> bool:
        """Give jobs the ends that were seen here; return whether any of them are yet to be written.

        Where Redis has another end, the run becomes one of its own. Elsewhere its end serves also the jobs whose needs
        this gateway could tell nobody.
        """
        parted = {run.id: run for run in await self._with_other_ends(refused)}
        for run in parted.values():
            own = msgspec.structs.replace(run, id=str(uuid.uuid4()))
            await self._write(own)
            self._recent.put_execution(own)
            for job in self._recent.get_jobs_of(run.id):
                known = job if job.id in self._unwritten else await self.job(job.id)
                if known is not None and known.execution_id == run.id and not known.is_over:
                    self._change(known, execution_id=own.id)
        ended = [run for run in runs if run.status >= 3 and run.id not in parted]
        unasked = [job for run in ended for job in self._recent.get_jobs_of(run.id) if job.ask == UNASKED]
        for job in unasked:
            self._change(job)
        return bool(parted or unasked)

    def _change(self, job: JobRecord, **fields: str) -> None:
        changed = self._unwritten[job.id] = msgspec.structs.replace(job, ask=0, **fields)
        self._recent.put_job(changed)

    async def _with_other_ends(self, refused: Iterable[ExecutionRecord]) -> list[ExecutionRecord]:
        """Return the runs that have ended here with jobs, and of which Redis knows another end, or none."""
        runs = [run for run in refused if run.status >= 3 and self._recent.get_jobs_of(run.id)]
        found: list[ExecutionRecord] = []
        for first in range(0, len(runs), AT_ONCE):
            some = runs[first : first + AT_ONCE]
            known = await asyncio.gather(*(self.execution(run.id) for run in some))
            pairs = zip(some, known, strict=True)
            found += [run for run, other in pairs if other is not None and _end_of(other) != _end_of(run)]
        return found

    def _unwritten_jobs(self) -> list[JobRecord]:
        return [record for record in self._unwritten.values() if isinstance(record, JobRecord)]

    def _note_written(self, records: Iterable[ExecutionRecord | JobRecord]) -> None:
        for record in records:
            if self._unwritten.get(record.id) is record:
                del self._unwritten[record.id]

    async def _write_all(self, records: Iterable[R], *, only_missing: bool = False) -> list[R]:
        """Return those that Redis has otherwise. Jobs that were written are not unwritten any more."""
        records, refused = list(records), []
        for first in range(0, len(records), AT_ONCE):
            some = records[first : first + AT_ONCE]
            writes = (self._write(record, only_missing=only_missing) for record in some)
            done = await asyncio.gather(*writes, return_exceptions=True)
            for record, written in zip(some, done, strict=True):
                if isinstance(written, BaseException) and not isinstance(written, RefusedError):
                    raise written
                if written is False:
                    refused.append(record)
            self._note_written(record for record in some if isinstance(record, JobRecord))
        return refused

    async def _scan(self, kind: type[R], script: Script, *arguments: str) -> list[R]:
        cursor, found = b"0", []
        while (reply := await self._read(self._link.call(script, *arguments, cursor))) is not None:
            cursor, some = reply
            found += [record for packed in some if (record := self._packing.unpack(packed, kind)) is not None]
            if cursor == b"0":
                break
        return found

    async def _patiently(self, ask: Callable[[], Awaitable[T]], recent: object) -> T | None:
        """Return what Redis has; what is not `recent` here either is asked for again while Redis was lost just now.

        It is mostly back within a moment, and then the other gateways write what it lacks.
        """
        found = await self._read(ask())
        until = self._link.settled_at
        while not found and not recent and monotonic() < until:
            await asyncio.sleep(AGAIN_SECONDS)
            found = await self._read(ask())
        return found

    async def _read(self, reply: Awaitable[T]) -> T | None:
        try:
            return await reply
        except GIVEN_UP:
            return None


def _end_of(run: ExecutionRecord) -> tuple[int, int | None, str]:
    """Return what its callers see of its end."""
    return run.status, run.result_id, run.error
