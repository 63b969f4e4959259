"""Who waits for which execution: at most one per key, any number of callers, each with job ids of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from urllib.parse import urlsplit

import msgspec
from cachetools import LRUCache

from gateway import config
from gateway.concurrency.slots import FairSlots
from gateway.concurrency.turns import TurnsByText
from gateway.errors import GatewayError
from gateway.executions.execution import CANCELLED_TEXT, Execution, Phase, failure_text
from gateway.executions.guard import collisions
from gateway.executions.runner import Runner
from gateway.model import Clock, Definition, ExecutionRecord, Key
from gateway.outcome import ExecutionEnd, Observer, Sender
from gateway.policy.access import Credential
from gateway.policy.plan import Bounds, Plan
from gateway.redash.requests import Execute, ExecuteText, read
from gateway.redash.routes import match
from gateway.results.definitions import Definitions
from gateway.store import Ledger

log = logging.getLogger("gateway.executions")


class Executions:
    """Every execution under way, and the recent ones whose job ids are still asked for."""

    def __init__(
        self,
        runner: Runner,
        definitions: Definitions,
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        settings: config.Config,
        changed: Callable[[int], None],
    ) -> None:
        """`changed` is told the id of each query that a run has brought a new result for."""
        self._runner = runner
        self._definitions = definitions
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._changed = changed
        self.slots = FairSlots(settings.upstream.max_executions, timeout=settings.upstream.queue_timeout)
        self.on_end: list[Callable[[Execution], None]] = []
        self._by_key: dict[Key, Execution] = {}
        self._asides: dict[Key, Execution] = {}
        self._by_id: dict[str, Execution] = {}
        self._failed: LRUCache[Key, tuple[Execution, float]] = LRUCache(1_000)
        self._turns = TurnsByText()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.configure(settings)

    def configure(self, settings: config.Config) -> None:
        """Take over a new configuration; what runs goes on."""
        self.settings = settings
        self._has_query_keys = any(credential.kind == "query" for credential in settings.credentials.values())
        self.slots.size, self.slots.timeout = settings.upstream.max_executions, settings.upstream.queue_timeout

    @property
    def running(self) -> list[Execution]:
        """Every execution that has not ended."""
        return list(self._by_id.values())

    def by_id(self, execution_id: str) -> Execution | None:
        """Return the execution of that id, None once it has ended or if it never was in this process."""
        return self._by_id.get(execution_id)

    def find(self, plan: Plan, *, stored: bool) -> Execution | None:
        """Return the execution or question under way whose answer will satisfy `plan`, None if there is none.

        `stored` says that the store holds a result of any age: who accepts that does not wait for a run.
        """
        if plan.max_age is None and stored:
            return self._asides.get(plan.key)
        execution = self._by_key.get(plan.key)
        if execution is None or execution.cancelled or execution.plan.marker != plan.marker:
            return None
        if execution.phase is Phase.QUEUED:
            execution.max_age = _stricter(execution.max_age, plan.max_age)  # its POST has not left yet
            return execution
        return execution if execution.phase is Phase.RUNNING or plan.at_least_as_lenient(execution.max_age) else None

    def blocking(self, plan: Plan, *, stored: bool) -> Execution | None:
        """Return the question under way that `plan` cannot join but must wait for, as it may start the run."""
        execution = None if plan.max_age is None and stored else self._by_key.get(plan.key)
        return (
            execution
            if execution is not None and execution.phase is Phase.ASKING and execution.plan.marker == plan.marker
            else None
        )

    def failed(self, plan: Plan) -> Execution | None:
        """Return the failure of this key that is younger than `failure_ttl`; an execution on demand passes it."""
        execution, at = self._failed.get(plan.key, (None, 0.0))
        if execution is None or plan.max_age == 0 or execution.plan.marker != plan.marker:
            return None
        return execution if self._clock.monotonic() - at <= self.settings.cache.failure_ttl else None

    def begin(self, plan: Plan, sender: Sender, *, aside: bool = False) -> Execution:
        """Start one. `aside`: only a question whether a stored result is still the newest, beside a run under way."""
        sender = msgspec.structs.replace(sender, trace=self._observer.begin(sender.trace))
        execution = Execution(plan, sender, self._clock.monotonic())
        before = None
        if aside:
            self._asides[plan.key] = execution
        else:
            before = self._by_key.get(plan.key)
            self._by_key[plan.key] = execution
        self._spawn(execution, partial(self._run, execution, before, aside=aside))
        return execution

    def _spawn(self, execution: Execution, work: Callable[[], Awaitable[None]]) -> None:
        self._by_id[execution.id] = execution
        execution.task = asyncio.create_task(self._guarded(execution, work))
        self._tasks.add(execution.task)
        execution.task.add_done_callback(self._tasks.discard)

    async def _guarded(self, execution: Execution, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except GatewayError as error:
            execution.fail(failure_text(error), failure=error)
        except asyncio.CancelledError:
            execution.fail(CANCELLED_TEXT, "cancelled")
            if self._closing:
                raise
        except Exception:
            log.exception("internal error in an execution", extra={"fields": {"execution": execution.id}})
            fault = GatewayError("Internal error of the gateway.")
            execution.fail(fault.detail, failure=fault)
        finally:
            await self._end(execution)

    async def _run(self, execution: Execution, before: Execution | None, *, aside: bool) -> None:
        if before is not None:  # a run of an older definition of the same key, or one that is being cancelled
            execution.answerable.set()
            await before.ended.wait()
        async with self._apart(execution):
            if aside:
                await self._runner.run(execution, lambda: self._definition_now(execution), self._followed)
                return
            if not self.slots.free():
                execution.answerable.set()
            async with self.slots.hold(execution.sender.client):
                await self._runner.run(execution, lambda: self._definition_now(execution), self._followed)

    def _apart(self, execution: Execution) -> AbstractAsyncContextManager[None]:
        """Keep texts apart that Redash cannot, where a query key's answer would not show whose rows they are."""
        return self._in_turn(execution) if self._has_query_keys else nullcontext()

    @asynccontextmanager
    async def _in_turn(self, execution: Execution) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            for key, text in collisions(execution.plan):
                if self._turns.would_wait(key, text):
                    execution.answerable.set()
                await held.enter_async_context(self._turns.hold(key, text))
            yield

    async def _definition_now(self, execution: Execution) -> Definition | None:
        if execution.plan.definition is None:
            return None
        self._definitions.drop(execution.plan.query_id)
        return await self._definitions.know(
            execution.plan.credential, execution.plan.query_id, execution.sender, self.settings.cache
        )

    async def _followed(self, execution: Execution) -> None:
        """Redash has made a job of it: write it down, so that the next process follows it after a kill."""
        if self._asides.get(execution.plan.key) is execution and execution.plan.key not in self._by_key:
            self._by_key[execution.plan.key] = execution
        await self.note(execution)

    async def note(self, execution: Execution) -> None:
        """Write down in the ledger how far it is."""
        execution.noted = True
        await self._ledger.note_execution(execution.record(self._clock.wall(), self._clock.monotonic()))

    async def _end(self, execution: Execution) -> None:
        for flights in (self._by_key, self._asides):
            if flights.get(execution.plan.key) is execution:
                del flights[execution.plan.key]
        if execution.upstream_job:
            self._changed(execution.plan.query_id)
        self._tell(execution)
        if execution.status == 4 and execution.failure is None and execution.result == "failure":
            self._failed[execution.plan.key] = (execution, self._clock.monotonic())
        if execution.noted and not self._closing:  # else it stays unfinished, for the next process to follow
            await self.note(execution)
        self._by_id.pop(execution.id, None)
        execution.end()
        for told in self.on_end:
            told(execution)

    def _tell(self, execution: Execution) -> None:
        runtime = execution.found[0].runtime if execution.found is not None else 0.0
        seconds = self._clock.monotonic() - execution.started
        ran, trace = bool(execution.upstream_job), execution.sender.trace
        end = ExecutionEnd(
            execution.id,
            execution.plan.query_id,
            execution.result,
            seconds,
            execution.callers,
            runtime,
            ran,
            execution.started,
            trace,
        )
        self._observer.execution(end)

    # -- start and stop --------------------------------------------------------------------------------------------

    async def resume(self, credentials: Mapping[str, Credential]) -> int:
        """Follow again what an earlier process left unfinished. Returns how many executions that are."""
        by_scope = {c.scope: c for c in credentials.values()}
        records = await self._ledger.unfinished()
        for record in records:
            credential = by_scope.get(record.scope)
            if credential is None:
                text = "The credential of this execution is no longer configured; run the query again."
                await self._ledger.note_execution(msgspec.structs.replace(record, status=4, error=text))
            elif record.key not in self._by_key:
                execution = self._revive(record, credential)
                jobs = await self._ledger.jobs_of(record.id)
                execution.seen = {job.id: self._clock.monotonic() for job in jobs if not job.cancelled}
                self._by_key[record.key] = execution
                self._spawn(execution, partial(self._run_again, execution))
        return len(records)

    def _revive(self, record: ExecutionRecord, credential: Credential) -> Execution:
        target = urlsplit(record.path)
        operation = read(match("POST", target.path), target.query, record.body)
        assert isinstance(operation, Execute | ExecuteText)  # noqa: S101 - nothing else is ever executed
        # A result since the first start is what the callers asked for: Redash joins its run or shows what it made.
        since = max(1, int(self._clock.wall() - record.started_at) + 1)
        plan = Plan(
            key=record.key,
            credential=credential,
            query_id=record.query_id,
            marker=record.marker,
            max_age=since,
            forced=False,
            bounds=Bounds(),
            operation=operation,
        )
        sender = Sender("gateway", record.id, self._observer.begin(None))
        ago = max(0.0, self._clock.wall() - record.started_at)
        execution = Execution(plan, sender, self._clock.monotonic() - ago, record.id)
        execution.purged = record.purged
        execution.upstream_job, execution.status, execution.noted = record.upstream_job, record.status, True
        execution.answerable.set()
        return execution

    async def _run_again(self, execution: Execution) -> None:
        if execution.plan.query_id:
            know = self._definitions.know(
                execution.plan.credential, execution.plan.query_id, execution.sender, self.settings.cache
            )
            execution.plan = msgspec.structs.replace(execution.plan, definition=await know)
        async with self._apart(execution), self.slots.hold(execution.sender.client):
            execution.phase = Phase.RUNNING if execution.upstream_job else Phase.ASKING
            work = self._runner.resume if execution.upstream_job else self._runner.run
            await work(execution, lambda: self._definition_now(execution), self._followed)

    async def purge(self, *, scope: str | None = None, query_id: int | None = None) -> None:
        """Keep the results of what runs now from being stored, also if another process follows it to its end."""
        for execution in self.running:
            if scope in (None, execution.plan.credential.scope) and query_id in (None, execution.plan.query_id):
                execution.purged = True
                if execution.noted:
                    await self.note(execution)

    def release_waiters(self) -> None:
        """Answer those who wait for an end with what is known now: job ids outlive this process."""
        for execution in self.running:
            execution.release_waiters()

    async def close(self) -> None:
        """Let go of every execution; Redash goes on, and the next process follows."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _stricter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
