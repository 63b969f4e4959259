"""At most one execution per key, and any number of callers that wait for it. The run itself is in `runner`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from gateway.errors import GatewayError, NotFound
from gateway.executions.execution import CANCELLED, Ending, Execution, Phase
from gateway.executions.failures import Failures
from gateway.executions.observing import record_of
from gateway.executions.revival import plan_of
from gateway.executions.runner import Runner
from gateway.executions.waits import Waits
from gateway.model import Clock, ExecutionRecord, Key
from gateway.outcome import Observer, Sender
from gateway.policy.access import Credential
from gateway.policy.configured import Live
from gateway.policy.plan import Plan, replanned, stricter
from gateway.results.definitions import Definitions
from gateway.store import Ledger

log = logging.getLogger("gateway.executions")

POST_SECONDS: Final = 1.0
"""How long Redash may take to respond to a POST while the gateway stops."""

Work = Callable[[], Awaitable[Ending]]


class Executions:
    """Every execution in progress, and recent failures, which are remembered for `failure_ttl`."""

    def __init__(
        self,
        runner: Runner,
        waits: Waits,
        definitions: Definitions,
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        live: Live,
        changed: Callable[[int], None],
    ) -> None:
        """`changed` is called with the query's id after each run in Redash."""
        self._runner = runner
        self._definitions = definitions
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._live = live
        self._changed = changed
        self.waits = waits
        self.slots = self.waits.slots
        self.on_end: list[Callable[[Execution], None]] = []
        self.move_jobs: Callable[[Execution, Execution], Awaitable[None]] | None = None
        """Called with a run that ends and its follow-up, before anybody learns of the end."""
        self._by_key: dict[Key, Execution] = {}
        self._asides: dict[Key, Execution] = {}
        self._by_id: dict[str, Execution] = {}
        self._weight = 0  # of all of them
        self.failures = Failures(live, clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.draining = False
        """The gateway is stopping: no caller is kept waiting any more."""

    @property
    def running(self) -> list[Execution]:
        """All executions that have not ended."""
        return list(self._by_id.values())

    def by_id(self, execution_id: str) -> Execution | None:
        """Return the execution with that id, None if it has ended or never was in this process."""
        return self._by_id.get(execution_id)

    def joinable(self, plan: Plan, *, stored: bool) -> Execution | None:
        """Return the execution or check in progress whose end will satisfy `plan`, None if there is none.

        `stored` says that the store holds a result of any age: callers that accept any age do not wait for a run.
        """
        execution = self.would_join(plan, stored=stored)
        if execution is not None:
            execution.max_age = stricter(execution.max_age, plan.max_age)
        return execution

    def would_join(self, plan: Plan, *, stored: bool) -> Execution | None:
        """Return the same as `joinable`, without changing it."""
        if plan.max_age is None and stored:
            return self._asides.get(plan.key)
        execution = self._by_key.get(plan.key)
        if execution is None or execution.cancelling or execution.plan.marker != plan.marker:
            return None
        open_to_all = execution.phase in (Phase.QUEUED, Phase.RUNNING)
        return execution if open_to_all or plan.at_least_as_lenient(execution.max_age) else None

    def blocking(self, plan: Plan, *, stored: bool) -> Execution | None:
        """Return the POST in progress that `plan` cannot join but must wait for, because it may start a run."""
        if plan.max_age is None and stored:
            return None
        execution = self._by_key.get(plan.key)
        if execution is None or execution.phase is not Phase.POSTING or execution.plan.marker != plan.marker:
            return None
        return execution

    @property
    def is_full(self) -> bool:
        """Whether all executions take as much memory as they may (`cache.memory`)."""
        return self._weight > self._live.settings.cache.memory

    def begin(self, plan: Plan, sender: Sender, *, aside: bool = False) -> Execution:
        """Start one. `aside`: only a check whether a stored result is still the newest; a run may be in progress."""
        sender = msgspec.structs.replace(sender, trace=self._observer.begin_span(sender.trace))
        execution = Execution(plan, sender, self._clock.monotonic())
        before = None
        if aside:
            self._asides[plan.key] = execution
        else:
            before = self._by_key.get(plan.key)
            self._by_key[plan.key] = execution
        self._spawn(execution, partial(self._run, execution, before, aside=aside))
        return execution

    def _spawn(self, execution: Execution, work: Work) -> None:
        self._by_id[execution.id] = execution
        self._weight += execution.weight
        execution.task = asyncio.create_task(self._guarded(execution, work))
        self._tasks.add(execution.task)
        execution.task.add_done_callback(self._tasks.discard)

    async def _guarded(self, execution: Execution, work: Work) -> None:
        ending = CANCELLED
        try:
            ending = await work()
        except GatewayError as error:
            ending = Ending.failed(error)
        except asyncio.CancelledError:
            if self._closing:
                raise
        except Exception:
            log.exception("internal error in an execution", extra={"fields": {"execution": execution.id}})
            ending = Ending.failed(GatewayError("Internal error of the gateway."))
        finally:
            await self._end(execution, ending)

    async def _run(self, execution: Execution, before: Execution | None, *, aside: bool) -> Ending:
        if before is not None:  # a run of the same key with an older definition, or one that is being cancelled
            await self.waits.after(before, execution)
        async with self.waits.apart(execution):
            if aside:
                return await self._runner.run(execution, self._followed)
            if not self.slots.free():
                execution.can_respond.set()
            async with self.slots.hold(execution.sender.client):
                return await self._runner.run(execution, self._followed)

    async def _followed(self, execution: Execution) -> None:
        """Record it, as Redash has made a job for it: after a kill, the next process follows that job."""
        if self._asides.get(execution.plan.key) is execution and execution.plan.key not in self._by_key:
            self._by_key[execution.plan.key] = execution
        await self.record(execution)

    async def record(self, execution: Execution, ending: Ending | None = None) -> None:
        """Record in the ledger how far it is, or how it is about to end."""
        execution.recorded = True
        record = execution.record(self._clock.wall(), self._clock.monotonic(), ending)
        await self._ledger.record_execution(record)

    async def _end(self, execution: Execution, ending: Ending) -> None:
        plan = execution.plan
        for flights in (self._by_key, self._asides):
            if flights.get(plan.key) is execution:
                del flights[plan.key]
        try:
            if execution.upstream_job:
                self._changed(plan.query_id)
            if not self._closing:  # else the next process follows it, and counts its end
                self._observer.record_execution(record_of(execution, ending, self._clock.monotonic()))
            if ending.result == "failure" and ending.failure is None:
                self.failures.put(execution)
            await self._follow_up(execution, ending)
            if execution.recorded and not self._closing:  # at shutdown it stays unfinished: the next process follows it
                await self.record(execution, ending)
        finally:  # it may be cancelled meanwhile, and nobody may wait for it any more
            if self._by_id.pop(execution.id, None) is not None:
                self._weight -= execution.weight
            execution.end(ending)
            for act in self.on_end:
                act(execution)

    async def _follow_up(self, execution: Execution, ending: Ending) -> None:
        """Run it once more for callers that joined after its end in Redash, of which no poll knew; move their jobs."""
        execution.rows_from = max(execution.rows_from, ending.made)
        if ending.stored is None or self._closing or execution.serves(execution.latest_need):
            return
        # Rows of this age at the POST are new enough: then Redash decides by its own clock whether to run the query.
        max_age = max(0, math.floor(self._clock.monotonic() - execution.latest_need))
        plan = msgspec.structs.replace(execution.plan, max_age=float(max_age))
        execution.follow_up = follow_up = self.begin(plan, execution.sender)
        await self.record(follow_up)
        if self.move_jobs is not None:
            await self.move_jobs(execution, follow_up)

    # -- start and stop --------------------------------------------------------------------------------------------

    async def resume(self, credentials: Mapping[str, Credential]) -> int:
        """Follow the executions that an earlier process left unfinished. Returns their number.

        Call it once the ledger can be read; executions of this process may be in progress by then.
        """
        by_scope = {c.scope: c for c in credentials.values()}
        records = [record for record in await self._ledger.unfinished() if record.id not in self._by_id]
        for record in records:
            try:
                await self._revive(record, by_scope.get(record.scope))
            except GatewayError as error:
                ended = msgspec.structs.replace(record, status=4, error=error.detail, body=b"")
                await self._ledger.record_execution(ended)
        return len(records)

    async def _revive(self, record: ExecutionRecord, credential: Credential | None) -> None:
        """Follow an execution of an earlier process.

        Raises:
            GatewayError: this configuration, or this version of the gateway, does not allow it.
        """
        if credential is None:
            raise NotFound("The credential of this execution is no longer configured; run the query again.")
        now, wall = self._clock.monotonic(), self._clock.wall()
        plan = plan_of(record, credential, wall)
        jobs = await self._ledger.jobs_of(record.id)
        sender = Sender("gateway", record.id, self._observer.begin_span(None))
        execution = Execution.revived(record, plan, sender, now, wall)
        for job in jobs:
            if not job.cancelled:
                execution.seen[job.id], execution.not_before[job.id] = now, job.not_before - wall + now
        execution.attach(max(execution.not_before.values(), default=-math.inf))
        current = self._by_key.get(record.key)
        if current is None or current.resumed:  # of several runs of a key, callers join the latest
            self._by_key[record.key] = execution
        self._spawn(execution, partial(self._run_again, execution))

    async def _run_again(self, execution: Execution) -> Ending:
        plan = execution.plan
        if plan.query_id:
            definition = await self._definitions.get(plan.credential, plan.query_id, execution.sender)
            replanned(plan, definition)
            execution.plan = msgspec.structs.replace(plan, definition=definition)
        async with self.waits.apart(execution), self.slots.hold(execution.sender.client):
            execution.phase = Phase.RUNNING if execution.upstream_job else Phase.POSTING
            work = self._runner.resume if execution.upstream_job else self._runner.run
            return await work(execution, self._followed)

    async def purge(self, *, scope: str | None = None, query_id: int | None = None) -> None:
        """Prevent the results of current executions from being stored, also if another process finishes them."""
        for execution in self.running:
            if scope in (None, execution.plan.credential.scope) and query_id in (None, execution.plan.query_id):
                execution.purged = True
                if execution.recorded:
                    await self.record(execution)

    def drain(self) -> None:
        """Keep no caller waiting any more; each gets what is known now, because job ids outlive this process."""
        self.draining = True
        for execution in self.running:
            execution.release_waiters()
        asyncio.get_running_loop().call_later(POST_SECONDS, self._give_out_job_ids)

    def _give_out_job_ids(self) -> None:
        """Let nobody wait for Redash's response to a POST: the next process sends it again, which joins the run."""
        for execution in self.running:
            execution.can_respond.set()

    async def aclose(self) -> None:
        """Stop following all executions; Redash goes on, and the next process follows them."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
