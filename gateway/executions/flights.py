"""At most one execution per key, and any number of callers that wait for it.

The run itself is in `runner`; `leading` decides whether this gateway does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from gateway.concurrency.events import Event, wait_for
from gateway.errors import GatewayError
from gateway.executions.budgets import Budgets
from gateway.executions.ending import CANCELLED, Ending
from gateway.executions.execution import Execution, Phase
from gateway.executions.failures import Failures
from gateway.executions.in_progress import InProgress
from gateway.executions.leading import LOOK_SECONDS, Leading
from gateway.executions.records import end_of, record_of
from gateway.executions.standing import ranges_of
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.outcome import Observer, Sender
from gateway.policy.configured import Live
from gateway.policy.plan import Plan
from gateway.store import Ledger

log = logging.getLogger("gateway.executions")

POST_SECONDS: Final = 1.0
"""How long Redash may take to respond to a POST while the gateway stops."""

Work = Callable[[], Awaitable[Ending]]


class Executions:
    """Every execution in progress, and recent failures, which are remembered for `failure_ttl`."""

    def __init__(
        self,
        leading: Leading,
        waits: Waits,
        budgets: Budgets,
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        live: Live,
        changed: Callable[[int], None],
    ) -> None:
        """`changed` is called with the query's id after each run in Redash."""
        self._leading = leading
        self._budgets = budgets
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._changed = changed
        self.waits = waits
        self.slots = self.waits.slots
        self.on_end: list[Callable[[Execution], None]] = []
        self.move_jobs: Callable[[Execution, Execution], Awaitable[None]] | None = None
        """Called with a run that ends and its follow-up, before anybody learns of the end."""
        self.settle_jobs: Callable[[Execution], Awaitable[None]] | None = None
        """Called next with a run that another gateway has led."""
        self.current = InProgress(live)
        self.failures = Failures(live, clock)
        leading.renamed = self.current.rename
        leading.runner.follower.on_start = self._started
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.draining = False
        """The gateway is stopping: no caller is kept waiting any more."""

    @property
    def running(self) -> list[Execution]:
        """All executions that have not ended."""
        return self.current.all

    def begin(
        self,
        plan: Plan,
        sender: Sender,
        *,
        check: bool = False,
        after: Execution | None = None,
        execution_id: str = "",
    ) -> Execution:
        """Start one. `check`: only ask whether a stored result is still the newest; a run may be in progress.

        `after`: when this one has ended. `execution_id`: another gateway has begun this very run.
        """
        sender = msgspec.structs.replace(sender, trace=self._observer.begin_span(sender.trace))
        execution = Execution(plan, sender, self._clock.monotonic(), execution_id)
        execution.recorded = execution.is_known = execution.standing.inherits = bool(execution_id)
        if check:
            self.current.add_check(execution)
            self._spawn(execution, partial(self._check, execution))
        else:
            self._spawn(execution, partial(self._run, execution, self._put(execution, after)))
        return execution

    def take_up(self, execution: Execution) -> None:
        """Go on with one that another process began; of several runs of a key, callers join the latest."""
        self.current.take_up(execution)
        self._spawn(execution, partial(self._run, execution, None))

    def _put(self, execution: Execution, after: Execution | None = None) -> Execution | None:
        """Let callers join it from now on; return the run that it has to wait for, if there is one."""
        before = after or self.current.earlier(execution.plan.key)
        self.current.add_run(execution)
        return before

    def _spawn(self, execution: Execution, work: Work) -> None:
        self.current.add(execution)
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

    async def _check(self, execution: Execution) -> Ending:
        """Ask Redash whether a stored result is still the newest; run the query if that takes a run."""
        runner = self._leading.runner
        async with self._budgets.paying(execution), self.waits.apart(execution):
            ending = await runner.check(execution)
            if ending is not None:
                return ending
            if execution.upstream_job:  # Redash runs it already
                if self.current.earlier(execution.plan.key) is None:
                    self.current.add_run(execution)
                with self.slots.exceed():
                    return await self._leading.carry(execution, partial(self._in_redash, execution))
        execution.phase = Phase.QUEUED
        execution.over.set()  # a run that waits for this check may begin
        if (ending := await self._end_of_other(execution)) is not None:
            return ending
        execution.purged, execution.over = False, Event()  # a run from now on: its POST is yet to come
        return await self._run(execution, self._put(execution))

    async def _end_of_other(self, execution: Execution) -> Ending | None:
        """Wait for a run in progress that serves the callers of a check; None if there is none, or it is cancelled."""
        while (other := self.current.would_join(execution.plan, check=False)) is not None:
            execution.can_respond.set()
            await other.over.wait()
            ending = other.ending
            if ending is not None and (ending.stored is not None or ending.cause == "query_failed"):
                execution.rows_from = other.rows_from
                return ending
        return None

    async def _run(self, execution: Execution, before: Execution | None) -> Ending:
        if before is not None:  # a run of the same key with an older definition, or one that is being cancelled
            await self.waits.after(before, execution)
        return await self._leading.carry(execution, partial(self._lead, execution))

    async def _lead(self, execution: Execution) -> Ending:
        await self._leading.runner.acceptance.prepare(execution)
        async with self._budgets.paying(execution), self.waits.apart(execution):
            if not self.slots.free():
                execution.can_respond.set()
                await self._leading.announce("posted", execution)
            async with self.slots.hold(execution.sender.client):
                if execution.resumed or execution.standing.inherits:
                    execution.phase = Phase.RUNNING if execution.upstream_job else Phase.POSTING
                return await self._in_redash(execution)

    async def _in_redash(self, execution: Execution) -> Ending:
        runner = self._leading.runner
        work = runner.resume if execution.upstream_job else runner.run
        return await work(execution, self._followed)

    async def _followed(self, execution: Execution) -> None:
        """Record it, as Redash has made a job for it: after a kill, the next process follows that job."""
        await self.record(execution)
        await execution.standing.lease.renew()
        await self._leading.announce("posted", execution)

    async def _started(self, execution: Execution) -> None:
        """Let the gateways that follow it know: the record says that it is queued."""
        if self._leading.leases.for_many and execution.standing.lease.number:
            await self.record(execution)
            await self._leading.announce("posted", execution)

    async def record(self, execution: Execution, ending: Ending | None = None) -> None:
        """Record in the ledger how far it is, or how it is about to end."""
        execution.note_recording()
        times, many = (self._clock.wall(), self._clock.monotonic()), self._leading.leases.for_many
        await self._ledger.record_execution(record_of(execution, *times, ending, whole=many))

    async def _end(self, execution: Execution, ending: Ending) -> None:
        plan, standing = execution.plan, execution.standing
        self.current.close(execution)
        try:
            if execution.upstream_job:
                self._changed(plan.query_id)
            if not self._closing and not standing.follows:  # else another process follows it, and counts its end
                self._observer.record_execution(end_of(execution, ending, self._clock.monotonic()))
            if ending.result == "failure" and ending.failure is None:
                self.failures.put(execution)
            await self._follow_up(execution, ending)
            if standing.follows and self.settle_jobs is not None:
                await self.settle_jobs(execution)
            if (execution.recorded or standing.lease.number) and not self._closing and not standing.follows:
                await self.record(execution, ending)
            await self._leading.give_up(execution, stopping=self._closing)
        finally:  # it may be cancelled meanwhile, and nobody may wait for it any more
            self.current.remove(execution)
            execution.end(ending)
            for act in self.on_end:
                act(execution)

    async def _follow_up(self, execution: Execution, ending: Ending) -> None:
        """Run it once more for callers that joined after its end in Redash, or though it was being cancelled."""
        now, standing = self._clock.monotonic(), execution.standing
        if not standing.follows:
            standing.heard = ranges_of(standing.needs)
        execution.rows_from = max(execution.rows_from, ending.made)
        execution.serves_nobody = ending.result == "cancelled" and execution.abandoned
        needed = execution.has_callers(now) if execution.serves_nobody else ending.stored is not None
        if not needed or self._closing or execution.serves(execution.latest_need):
            return
        execution.follow_up = follow_up = await self._begun_after(execution, execution.later_plan(now))
        follow_up.is_known = True
        if not follow_up.recorded:
            await self.record(follow_up)
        if self.move_jobs is not None:
            await self.move_jobs(execution, follow_up)

    async def _begun_after(self, execution: Execution, plan: Plan) -> Execution:
        """Begin the follow-up of a run, or join the one that another gateway has begun."""
        standing = execution.standing
        after = execution if standing.lease.number else None  # it gets the lease of this one
        follow_up = self.current.by_id(standing.follow_up) or self.begin(
            plan, execution.sender, after=after, execution_id=standing.follow_up
        )
        needy = {client: need for client, need in execution.payers.items() if not execution.serves(need)}
        follow_up.payers = needy or follow_up.payers
        if not standing.is_provided_for(execution.latest_need):
            follow_up.attach(execution.latest_need)
        if standing.follows:  # it may turn out to be a run that another gateway has begun, with another id
            await wait_for(follow_up.standing.settled, LOOK_SECONDS)
        return follow_up

    # -- purge and stop ---------------------------------------------------------------------------------------------

    async def purge(self, *, scope: str | None = None, query_id: int | None = None) -> None:
        """Prevent the results of current executions from being stored, also if another process finishes them."""
        for execution in self.running:
            if scope in (None, execution.plan.credential.scope) and query_id in (None, execution.plan.query_id):
                execution.purged = True
                if execution.recorded and not execution.standing.follows:
                    await self.record(execution)

    def drain(self) -> None:
        """Keep no caller waiting any more; each gets what is known now, because job ids outlive this process."""
        self.draining = True
        for execution in self.running:
            execution.release_waiters()
        asyncio.get_running_loop().call_later(POST_SECONDS, self._give_out_job_ids)

    def _give_out_job_ids(self) -> None:
        """Let nobody wait for the response to a POST: the next process sends it again, which joins the run."""
        for execution in self.running:
            execution.can_respond.set()

    async def aclose(self) -> None:
        """Stop following all executions; Redash goes on, and the next process follows them."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
