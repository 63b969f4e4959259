"""Decides which rows of Redash are those of a run: of the SQL that was requested, by a definition that still holds."""

from __future__ import annotations

import math

import msgspec

from gateway.concurrency.spool import Spool
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution
from gateway.executions.expectations import Expectations
from gateway.executions.following import Fetched
from gateway.executions.guard import Guard, may_be_of_earlier_text
from gateway.policy.plan import replanned
from gateway.redash.responses import ResultHead, parse_beginning, parse_time
from gateway.redash.values import can_be_judged
from gateway.results.cache import ResultCache, arriving_result
from gateway.results.definitions import Definitions
from gateway.store import Fence
from gateway.upstream.protocol import UpstreamResponse


class Acceptance:
    """Keeps the plan of a run up to date, judges the rows that come by it, and stores them."""

    def __init__(
        self, definitions: Definitions, results: ResultCache, expectations: Expectations, guard: Guard
    ) -> None:
        self._definitions = definitions
        self._results = results
        self._expectations = expectations
        self._guard = guard

    # -- before a POST

    async def prepare(self, execution: Execution) -> None:
        """Look the definition up where another process began the run. Raises as `check_definition`."""
        plan = execution.plan
        if plan.query_id and plan.definition is None:
            definition = await self._definitions.get(plan.credential, plan.query_id, execution.sender)
            replanned(plan, definition)
            execution.plan = msgspec.structs.replace(plan, definition=definition)

    async def check_definition(self, execution: Execution) -> None:
        """Let no request leave that runs the query by a definition older than `definition_check`.

        Raises:
            GatewayError: Redash does not give the definition now, or it does not allow this run any more.
        """
        plan = execution.plan
        if plan.definition is not None:
            judged = can_be_judged(plan.definition)
            definition = await self._definitions.for_run(
                plan.credential, plan.query_id, execution.sender, judged=judged
            )
            execution.plan = replanned(plan, definition)

    async def oldest(self, execution: Execution, max_age: int | None) -> int | None:
        """Return the age to POST instead of this one, None for any: no row may come that is known to be out of date.

        Where the response would not show whose rows they are, that is 0.
        """
        max_age = self._results.age_to_ask_for(execution.plan, max_age)
        if max_age != 0 and await self._guard.may_be_mixed_up(execution.plan, execution.sender):
            return 0
        return max_age

    # -- after it

    async def are_requested(self, execution: Execution, fetched: Fetched) -> bool:
        """Whether cached rows are those of the requested text, and not of one before the last edit."""
        if may_be_of_earlier_text(execution.plan, fetched.head):
            return False
        return await self.has_requested_sql(execution, fetched.head)

    async def explained_by_edit(self, execution: Execution, head: ResultHead) -> bool:
        """Whether the SQL is that of a newer definition, which allows this run, too.

        Raises:
            GatewayError: as `check_definition`.
        """
        marker = execution.plan.marker
        if execution.plan.definition is None:
            return False
        self._definitions.drop(execution.plan.query_id)
        await self.check_definition(execution)
        plan = execution.plan
        return plan.marker != marker and await self.has_requested_sql(execution, head)

    async def has_requested_sql(self, execution: Execution, head: ResultHead) -> bool:
        """Whether data source and SQL of a result, or of its beginning, are the requested ones."""
        plan = execution.plan
        return await self._guard.has_requested_sql(plan, plan.definition, head, execution.sender)

    async def store(self, execution: Execution, fetched: Fetched, begun: float, marker: str) -> Ending:
        """Store the result of a run that began then (monotonic), and end the run with it.

        Raises:
            LeaseLostError: another gateway has taken the lease.
        """
        plan, standing = execution.plan, execution.standing
        await standing.lease.confirm()
        self._expectations.learn(plan, fetched.head.runtime, execution.polls)
        stored = await self._results.put(
            plan.credential,
            plan.query_id,
            fetched.head,
            fetched.response,
            key=plan.key,
            marker=marker,
            data_source_id=plan.definition.data_source_id if plan.definition is not None else None,
            begun=-math.inf if execution.purged or standing.is_apart else begun,
            fence=Fence(plan.key, standing.lease.number) if standing.lease.number else None,
            confirmed=fetched.response.sent if marker or plan.definition is None else -math.inf,
        )
        return Ending("success", stored, made=parse_time(fetched.head.retrieved_at) - fetched.response.ahead)

    async def show_early(self, execution: Execution, beginning: UpstreamResponse, spool: Spool) -> None:
        """Let waiting callers have a large result while it arrives, if its first bytes show the requested SQL."""
        plan = execution.plan
        if execution.standing.inherits:
            return  # it has callers elsewhere, and nobody knows yet whether they may have these rows
        head = parse_beginning(beginning.body.load())
        if head is None or (head.reduced and not (plan.credential.is_query_key and execution.upstream_job)):
            return  # the SQL should be there, but is not; or the age of cached rows, which only the end shows
        if await self.has_requested_sql(execution, head):
            execution.show_early(arriving_result(plan.credential, plan.query_id, head, beginning, spool))
