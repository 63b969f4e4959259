"""Does one run: POST, job, result, check, store. Its state is in `execution`; callers join it in `flights`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from gateway.concurrency.spool import Spool
from gateway.errors import CredentialRejected, UpstreamError, UpstreamRefused, UpstreamUnusable, is_denial
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution, Phase
from gateway.executions.expectations import Expectations
from gateway.executions.following import AGAIN_SECONDS, PATIENCE_SECONDS, Ask, Fetched, Follower
from gateway.executions.guard import Guard, may_be_of_earlier_text
from gateway.executions.polling import Polls
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.policy.plan import replanned
from gateway.redash import calls
from gateway.redash.responses import Job, ResultHead, parse_beginning, parse_time
from gateway.redash.values import can_be_judged
from gateway.results.cache import ResultCache, arriving_result
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher
from gateway.results.loading import load_result, load_result_or_job
from gateway.store import Fence
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

log = logging.getLogger("gateway.executions")

Followed = Callable[[Execution], Awaitable[None]]

RE_RUNS: Final = 3
"""How often a query is run again when Redash responds with the rows of another SQL text (CONTRACT 7)."""


class Runner:
    """Does the run: POST, job, result, check, store."""

    def __init__(
        self,
        upstream: Upstream,
        definitions: Definitions,
        results: ResultCache,
        fetcher: ResultFetcher,
        expectations: Expectations,
        waits: Waits,
        guard: Guard,
        clock: Clock,
    ) -> None:
        self._upstream, self._fetcher = upstream, fetcher
        self._definitions, self._results = definitions, results
        self._follower, self._expectations = Follower(upstream, clock), expectations
        self._waits, self._guard, self._clock = waits, guard, clock

    async def run(self, execution: Execution, followed: Followed) -> Ending:
        """Run it to its end. `followed` is called when Redash has made a job for it.

        Raises:
            GatewayError: Redash refused, is unavailable, or responded unusably.
        """
        execution.sent = self._clock.monotonic()
        ending = await self._try(execution, followed, again=False)
        if ending is not None:
            return ending
        async with self._waits.again(execution):
            for _ in range(RE_RUNS):
                ending = await self._try(execution, followed, again=True)
                if ending is not None:
                    return ending
        raise UpstreamUnusable(
            "Redash responded with the rows of another SQL text that differs only in what its cache ignores: white "
            "space, up to version 10 also letter case, inside quotes, too. Make the texts differ in more than that."
        )

    async def _try(self, execution: Execution, followed: Followed, *, again: bool) -> Ending | None:
        """Run it once; None if the rows are those of another text."""
        await self._check_definition(execution)
        begun = self._clock.monotonic()
        fetched = await self._request(execution, followed, again=again)
        if isinstance(fetched, Ending):
            return fetched
        if await self._has_requested_sql(execution, fetched.head):
            return await self._store(execution, fetched, begun, execution.plan.marker)
        if await self._explained_by_edit(execution, fetched.head):
            return await self._store(execution, fetched, begun, "")
        fetched.response.body.give_up()
        log.warning("got the rows of another SQL; running again", extra={"fields": {"execution": execution.id}})
        return None

    async def prepare(self, execution: Execution) -> None:
        """Look the definition up where another process began the run. Raises as `_check_definition`."""
        plan = execution.plan
        if plan.query_id and plan.definition is None:
            definition = await self._definitions.get(plan.credential, plan.query_id, execution.sender)
            replanned(plan, definition)
            execution.plan = msgspec.structs.replace(plan, definition=definition)

    async def fetch(self, execution: Execution, job: Job) -> Ending:
        """Fetch the result of a job that has ended, as another gateway has seen. Raises as `run`."""
        await self.prepare(execution)
        ask = partial(self._ask, execution, _unfollowed, again=False)
        fetched = await self._fetch_patiently(execution, job, ask)
        if isinstance(fetched, Ending):
            return fetched
        if await self._has_requested_sql(execution, fetched.head):
            return await self._store(execution, fetched, execution.started, execution.plan.marker)
        if fetched.head.reduced or fetched.head.id != job.result_id:
            raise UpstreamUnusable("Redash has no longer the result of this run; run the query again.")
        # The gateway that led the run has compared it with the text of then; an edit may have come before or after.
        return await self._store(execution, fetched, execution.started, "")

    async def resume(self, execution: Execution, followed: Followed) -> Ending:
        """Continue a run that an earlier process began: follow its job, then as in `run`."""
        begun = execution.started
        job = Job(id=execution.upstream_job, status=execution.upstream_status)
        fetched = await self._follow(execution, job, partial(self._ask, execution, followed, again=False))
        if isinstance(fetched, Ending):
            return fetched
        if await self._has_requested_sql(execution, fetched.head):
            return await self._store(execution, fetched, begun, execution.plan.marker)
        return await self.run(execution, followed)

    async def _request(self, execution: Execution, followed: Followed, *, again: bool) -> Fetched | Ending:
        execution.phase = max(execution.phase, Phase.POSTING)
        posted = await self._run_or_read(execution, again=again)
        if isinstance(posted, Fetched):
            return posted
        execution.upstream_job = posted.id
        execution.upstream_status = posted.status if posted.status in (1, 2) else 2
        execution.phase = Phase.RUNNING
        await followed(execution)
        execution.posted.set()
        execution.can_respond.set()
        expected = self._expectations.seconds(execution.plan)
        return await self._follow(execution, posted, partial(self._ask, execution, followed, again=again), expected)

    async def _run_or_read(self, execution: Execution, *, again: bool) -> Fetched | Job:
        """Send the POST with its max_age; cached rows that may be those of an earlier text are not taken."""
        max_age = 0 if again else execution.upstream_max_age(self._clock.monotonic())
        max_age = self._results.age_to_ask_for(execution.plan, max_age)
        if max_age != 0 and await self._guard.may_be_mixed_up(execution.plan, execution.sender):
            max_age = 0
        before, posted_at = execution.rows_from, self._clock.monotonic()
        execution.rows_from = posted_at - (max_age if max_age is not None else math.inf)
        try:
            posted = await self._post(execution, max_age)
            if max_age != 0 and isinstance(posted, Fetched) and may_be_of_earlier_text(execution.plan, posted.head):
                posted.response.body.give_up()
                posted = await self._post(execution, 0)
        except BaseException:
            execution.rows_from = before  # an earlier POST may bring them yet
            raise
        if isinstance(posted, Job):
            execution.rows_from = posted_at
        return posted

    async def _post(self, execution: Execution, max_age: int | None) -> Fetched | Job:
        request = calls.execution(execution.plan.operation, max_age)
        early = partial(self._show_early, execution)
        await execution.standing.confirm()
        try:
            response = await self._upstream.send(execution.plan.credential, request, execution.sender, early=early)
            if response.status != 200:
                raise refusal(response)
        except (CredentialRejected, UpstreamRefused) as error:
            if execution.plan.definition is None and is_denial(error):  # a saved query's definition says so itself
                await self._results.deny(execution.plan.key)
            raise
        head = await load_result_or_job(response.body)
        return head if isinstance(head, Job) else Fetched(response, head)

    async def _follow(self, execution: Execution, job: Job, ask: Ask, expected: float = 0.0) -> Fetched | Ending:
        """Follow the job to its end, then fetch its result. `expected`: its length in seconds, 0 if unknown."""
        execution.polls = Polls(self._clock.monotonic(), expected)
        found = await self._follower.follow(execution, job, execution.polls, ask)
        if isinstance(found, Job):
            found = await self._fetch_patiently(execution, found, ask)
        execution.work.end(self._clock.monotonic(), found.runtime if isinstance(found, Fetched) else None)
        return found

    async def _ask(self, execution: Execution, followed: Followed, *, again: bool) -> Fetched | Job:
        """Send the POST once more, as Redash may have lost the job, or the run may have ended without it.

        Callers may join meanwhile that do not accept what this POST has brought: then it is sent once more.
        """
        await self._check_definition(execution)
        while True:
            max_age = execution.max_age
            posted = await self._run_or_read(execution, again=again)
            if isinstance(posted, Job):
                break
            if max_age == execution.max_age:
                return posted
            posted.response.body.give_up()
        if posted.id != execution.upstream_job:
            log.warning("Redash lost a job; following the new one", extra={"fields": {"execution": execution.id}})
            execution.upstream_job = posted.id
            await followed(execution)
        return posted

    async def _fetch_patiently(self, execution: Execution, job: Job, ask: Ask) -> Fetched | Ending:
        """Fetch the result, with retries: rows that are ready must not be lost to a short outage of Redash."""
        began = self._clock.monotonic()
        while True:
            try:
                return await self._fetch(execution, job, ask)
            except (UpstreamError, UpstreamUnusable):
                execution.is_unanswered = True
                if self._clock.monotonic() - began > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    async def _fetch(self, execution: Execution, job: Job, ask: Ask) -> Fetched | Ending:
        """Fetch the result of a finished job. A query key must POST again: it may not read by id (CONTRACT 8)."""
        credential = execution.plan.credential
        if credential.is_query_key:
            await self._check_definition(execution)
            posted = await self._post(execution, None)
            if isinstance(posted, Fetched):
                return posted
            execution.upstream_job = posted.id
            return await self._follow(execution, posted, ask)
        if job.result_id is None:
            raise UpstreamUnusable("Redash finished the job without naming a result.")
        early = partial(self._show_early, execution)
        response = await self._fetcher.download(credential, job.result_id, "json", execution.sender, early)
        return Fetched(response, await load_result(response.body))

    async def _show_early(self, execution: Execution, beginning: UpstreamResponse, spool: Spool) -> None:
        """Let waiting callers have a large result while it arrives, if its first bytes show the requested SQL."""
        plan = execution.plan
        if execution.standing.inherits:
            return  # it has callers elsewhere, and nobody knows yet whether they may have these rows
        head = parse_beginning(beginning.body.load())
        if head is None or (head.reduced and not (plan.credential.is_query_key and execution.upstream_job)):
            return  # the SQL should be there, but is not; or the age of cached rows, which only the end shows
        if await self._has_requested_sql(execution, head):
            execution.show_early(arriving_result(plan.credential, plan.query_id, head, beginning, spool))

    async def _check_definition(self, execution: Execution) -> None:
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

    async def _explained_by_edit(self, execution: Execution, head: ResultHead) -> bool:
        """Whether the SQL is that of a newer definition, which allows this run, too.

        Raises:
            GatewayError: as `_check_definition`.
        """
        marker = execution.plan.marker
        if execution.plan.definition is None:
            return False
        self._definitions.drop(execution.plan.query_id)
        await self._check_definition(execution)
        plan = execution.plan
        return plan.marker != marker and await self._has_requested_sql(execution, head)

    async def _has_requested_sql(self, execution: Execution, head: ResultHead) -> bool:
        plan = execution.plan
        return await self._guard.has_requested_sql(plan, plan.definition, head, execution.sender)

    async def _store(self, execution: Execution, fetched: Fetched, begun: float, marker: str) -> Ending:
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


async def _unfollowed(_execution: Execution) -> None:
    """Record nothing: the run is another gateway's."""
