"""Goes on with runs that another process began, from their records in the ledger."""

from __future__ import annotations

import math
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateway.concurrency.events import wait_for
from gateway.errors import GatewayError, NotFound
from gateway.executions.execution import Execution
from gateway.executions.flights import Executions
from gateway.executions.leading import LOOK_SECONDS
from gateway.executions.records import adopt_jobs, revived
from gateway.model import Clock, ExecutionRecord
from gateway.outcome import Observer, Sender
from gateway.policy.access import Credential
from gateway.policy.bounds import Bounds
from gateway.policy.configured import Live
from gateway.policy.plan import Plan
from gateway.redash.matching import match
from gateway.redash.requests import Execute, ExecuteText, parse_operation
from gateway.store import Leases, Ledger


class Resumed(NamedTuple):
    """What became of the runs of an earlier process, by their ids."""

    followed: list[tuple[str, int]]
    """Each with its query."""
    given_up: list[tuple[str, str]]
    """Each with the reason: this configuration or version does not allow it."""


class Revival:
    """Makes executions from records: at the start of a process, or when a caller of another gateway comes here."""

    def __init__(
        self, executions: Executions, ledger: Ledger, leases: Leases, live: Live, observer: Observer, clock: Clock
    ) -> None:
        self._executions = executions
        self._ledger = ledger
        self._leases = leases
        self._live = live
        self._observer = observer
        self._clock = clock
        self.resumed = 0
        """How many runs of an earlier process are followed."""

    async def resume(self) -> Resumed:
        """Follow the executions that an earlier process left unfinished.

        Call it once the ledger can be read; executions of this process may be in progress by then. What another
        gateway leads is left to it.
        """
        resumed = Resumed([], [])
        for record in await self._ledger.unfinished():
            if self._executions.current.by_id(record.id) is None and await self._leases.is_free(record.key):
                await self._resume(record, resumed)
        return resumed

    async def _resume(self, record: ExecutionRecord, resumed: Resumed) -> None:
        try:
            await self._revive(record)
            self.resumed += 1
            resumed.followed.append((record.id, record.query_id))
        except GatewayError as error:
            resumed.given_up.append((record.id, error.detail))
            ended = msgspec.structs.replace(record, status=4, error=error.detail, body=b"")
            await self._ledger.record_execution(ended)

    async def adopt(self, execution_id: str) -> Execution | None:
        """Follow a run that another gateway leads, or has led, for a caller that came here; None if it has ended."""
        record = await self._ledger.execution(execution_id) if self._leases.shared else None
        if record is None or record.status >= 3:
            return None
        try:
            return self._executions.current.by_id(execution_id) or await self._revive(record)
        except GatewayError:
            return None

    async def rerun(self, record: ExecutionRecord) -> Execution:
        """Join or begin a run of the same query for callers that the rows of an earlier one do not serve.

        Raises:
            GatewayError: as `_revive`.
        """
        now = self._clock.monotonic()
        if not record.body:
            raise NotFound("The values of this run are not known any more; run the query again.")
        plan = plan_of(record, self._credential(record), 0.0)
        execution = self._executions.current.joinable(plan, check=False)
        if execution is None:
            execution = self._executions.begin(plan, Sender("gateway", record.id))
        execution.attach(now)
        await wait_for(execution.standing.settled, LOOK_SECONDS)
        execution.is_known = True
        if not execution.recorded:
            await self._executions.record(execution)
        return execution

    def _credential(self, record: ExecutionRecord) -> Credential:
        credential = next((c for c in self._live.access.credentials.values() if c.scope == record.scope), None)
        if credential is None:
            raise NotFound("The credential of this execution is no longer configured; run the query again.")
        return credential

    async def _revive(self, record: ExecutionRecord) -> Execution:
        """Follow an execution of another process.

        Raises:
            GatewayError: this configuration, or this version of the gateway, does not allow it.
        """
        credential = self._credential(record)
        jobs = [] if self._leases.shared else await self._ledger.jobs_of(record.id)  # else whoever leads takes them
        now, wall = self._clock.monotonic(), self._clock.wall()
        need = max((job.not_before for job in jobs if not job.is_over), default=record.started_at)
        plan = plan_of(record, credential, max(0.0, wall - need))
        sender = Sender("gateway", record.id, self._observer.begin_span(None))
        execution = revived(record, plan, sender, now, wall)
        adopt_jobs(execution, jobs, now, wall)
        execution.standing.inherits = self._leases.shared
        self._executions.take_up(execution)
        return execution


def plan_of(record: ExecutionRecord, credential: Credential, needed_age: float) -> Plan:
    """Return the plan for callers that accept rows of this age in seconds now; it may be infinite."""
    target = urlsplit(record.path)
    operation = parse_operation(match("POST", target.path), target.query, record.body)
    assert isinstance(operation, Execute | ExecuteText)  # noqa: S101 - nothing else is ever executed
    return Plan(
        key=record.key,
        credential=credential,
        query_id=record.query_id,
        marker=record.marker,
        max_age=None if needed_age == math.inf else needed_age,
        forced=False,
        bounds=Bounds(),
        operation=operation,
    )
