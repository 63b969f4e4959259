"""Does one run: POST, job, result, check, store. Its state is in `execution`; callers join it in `flights`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from gateway.concurrency.events import wait_for
from gateway.concurrency.spool import Spool
from gateway.errors import UpstreamError, UpstreamUnusable
from gateway.executions.execution import CANCELLED, CANCELLED_TEXT, Ending, Execution, Phase
from gateway.executions.guard import has_requested_sql, may_be_mixed_up
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.outcome import ExecutionResult
from gateway.policy.plan import replanned
from gateway.redash import calls
from gateway.redash.responses import Job, ResultHead, parse_beginning
from gateway.redash.values import can_be_judged
from gateway.results.cache import ResultCache, arriving_result, load_result, load_result_or_job
from gateway.results.definitions import Definitions
from gateway.results.fetcher import ResultFetcher
from gateway.upstream.protocol import Upstream, UpstreamResponse, refusal

log = logging.getLogger("gateway.executions")

Followed = Callable[[Execution], Awaitable[None]]

LOST_TEXT: Final = "Redash no longer knows this job (it was restarted, or the job expired); run the query again."
NO_TEXT: Final = "The query failed in Redash without an error text."
RE_RUNS: Final = 3
"""How often a query is run again when Redash responds with the rows of another SQL text (CONTRACT 7)."""

_UNKNOWN: Final = 0
"""Our own status for a job that Redash does not know."""

_AGAIN_SECONDS: Final = 1.0
_PATIENCE: Final = 60.0
"""Seconds for which polls may fail before an execution is given up as lost."""


class Fetched(msgspec.Struct, frozen=True):
    """A result as Redash sent it, with its parsed head."""

    response: UpstreamResponse
    head: ResultHead


class Runner:
    """Does the run: POST, job, result, check, store."""

    def __init__(
        self,
        upstream: Upstream,
        definitions: Definitions,
        results: ResultCache,
        fetcher: ResultFetcher,
        waits: Waits,
        clock: Clock,
    ) -> None:
        self._upstream = upstream
        self._definitions = definitions
        self._results = results
        self._fetcher = fetcher
        self._waits = waits
        self._clock = clock

    async def run(self, execution: Execution, followed: Followed) -> Ending:
        """Run it to its end. `followed` is called when Redash has made a job for it.

        Raises:
            GatewayError: Redash refused, is unavailable, or responded unusably.
        """
        ending = await self._try(execution, followed, again=False)
        if ending is not None:
            return ending
        async with self._waits.again(execution):
            for _ in range(RE_RUNS):
                ending = await self._try(execution, followed, again=True)
                if ending is not None:
                    return ending
        raise UpstreamUnusable(
            "Redash responded with the rows of another SQL text that differs in white space only (its cache ignores "
            "white space, also inside quotes). Make the texts differ in more than white space."
        )

    async def _try(self, execution: Execution, followed: Followed, *, again: bool) -> Ending | None:
        """Run it once; None if the rows are those of another text."""
        await self._check_definition(execution)
        forced = may_be_mixed_up(execution.plan)
        max_age = 0 if again or forced else _upstream_max_age(execution)
        begun = self._clock.monotonic()
        fetched = await self._request(execution, max_age, followed)
        if isinstance(fetched, Ending):
            return fetched
        if await has_requested_sql(execution.plan, execution.plan.definition, fetched.head):
            return await self._store(execution, fetched, begun, execution.plan.marker)
        if await self._explained_by_edit(execution, fetched.head):
            return await self._store(execution, fetched, begun, "")
        fetched.response.body.give_up()
        log.warning("got the rows of another SQL; running again", extra={"fields": {"execution": execution.id}})
        return None

    async def resume(self, execution: Execution, followed: Followed) -> Ending:
        """Continue a run that an earlier process began: follow its job, then as in `run`."""
        begun = execution.started
        fetched = await self._follow(execution, Job(id=execution.upstream_job, status=execution.upstream_status))
        if isinstance(fetched, Ending):
            return fetched
        if await has_requested_sql(execution.plan, execution.plan.definition, fetched.head):
            return await self._store(execution, fetched, begun, execution.plan.marker)
        return await self.run(execution, followed)

    async def _request(self, execution: Execution, max_age: int | None, followed: Followed) -> Fetched | Ending:
        execution.phase = max(execution.phase, Phase.POSTING)
        posted = await self._post(execution, max_age)
        if isinstance(posted, Fetched):
            return posted
        execution.upstream_job = posted.id
        execution.upstream_status = posted.status if posted.status in (1, 2) else 2
        execution.phase = Phase.RUNNING
        await followed(execution)
        execution.posted.set()
        execution.can_respond.set()
        return await self._follow(execution, posted)

    async def _post(self, execution: Execution, max_age: int | None) -> Fetched | Job:
        request = calls.execution(execution.plan.operation, max_age)
        early = partial(self._show_early, execution)
        response = await self._upstream.send(execution.plan.credential, request, execution.sender, early=early)
        if response.status != 200:
            raise refusal(response)
        head = await load_result_or_job(response.body)
        return head if isinstance(head, Job) else Fetched(response, head)

    async def _follow(self, execution: Execution, job: Job) -> Fetched | Ending:
        """Poll until the job has ended, then fetch its result."""
        began = self._clock.monotonic()
        failing_since: float | None = None
        polled_again = False
        while True:
            if job.status == 3:
                return await self._fetch_patiently(execution, job)
            if job.status in (4, _UNKNOWN) and (job.error or polled_again):
                return _failed(job)
            polled_again = job.status in (4, _UNKNOWN)
            if job.status in (1, 2):
                execution.upstream_status = job.status
            execution.updated_at = job.updated_at
            pause = _AGAIN_SECONDS if polled_again else _pause(self._clock.monotonic() - began)
            await wait_for(execution.stopping, pause)
            if execution.cancelling:
                return CANCELLED
            try:
                job = await self._poll(execution)
                failing_since = None
            except (UpstreamError, UpstreamUnusable):
                now = self._clock.monotonic()
                failing_since = failing_since if failing_since is not None else now
                if now - failing_since > _PATIENCE:
                    raise

    async def _poll(self, execution: Execution) -> Job:
        credential = execution.plan.credential
        request = calls.job(execution.upstream_job, execution.plan.query_id if credential.is_query_key else None)
        response = await self._upstream.send(credential, request, execution.sender)
        if response.status == 500:  # Redash's response for a job that it does not know (CONTRACT 9)
            return Job(status=_UNKNOWN)
        if response.status != 200:
            raise refusal(response)
        job = await load_result_or_job(response.body)
        if not isinstance(job, Job):
            raise UpstreamUnusable("Redash's response is not the JSON of a job.")
        return job

    async def _fetch_patiently(self, execution: Execution, job: Job) -> Fetched | Ending:
        """Fetch the result, with retries: rows that are ready must not be lost to a short outage of Redash."""
        began = self._clock.monotonic()
        while True:
            try:
                return await self._fetch(execution, job)
            except (UpstreamError, UpstreamUnusable):
                if self._clock.monotonic() - began > _PATIENCE:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _fetch(self, execution: Execution, job: Job) -> Fetched | Ending:
        """Fetch the result of a finished job. A query key must POST again: it may not read by id (CONTRACT 8)."""
        credential = execution.plan.credential
        if credential.is_query_key:
            await self._check_definition(execution)
            posted = await self._post(execution, None)
            if isinstance(posted, Fetched):
                return posted
            execution.upstream_job = posted.id
            return await self._follow(execution, posted)
        if job.result_id is None:
            raise UpstreamUnusable("Redash finished the job without naming a result.")
        early = partial(self._show_early, execution)
        response = await self._fetcher.download(credential, job.result_id, "json", execution.sender, early)
        return Fetched(response, await load_result(response.body))

    async def _show_early(self, execution: Execution, beginning: UpstreamResponse, spool: Spool) -> None:
        """Let waiting callers have a large result while it arrives, if its first bytes show the requested SQL."""
        plan = execution.plan
        head = parse_beginning(beginning.body.load())
        if head is None or (head.reduced and not plan.credential.is_query_key):
            return  # the SQL should be there, but is not
        if await has_requested_sql(plan, plan.definition, head):
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
        return plan.marker != marker and await has_requested_sql(plan, plan.definition, head)

    async def _store(self, execution: Execution, fetched: Fetched, begun: float, marker: str) -> Ending:
        plan = execution.plan
        stored = await self._results.put(
            plan.credential,
            plan.query_id,
            fetched.head,
            fetched.response,
            key=plan.key,
            marker=marker,
            data_source_id=plan.definition.data_source_id if plan.definition is not None else None,
            begun=-math.inf if execution.purged else begun,
            confirmed=fetched.response.sent if marker or plan.definition is None else -math.inf,
        )
        return Ending("success", stored)


def _upstream_max_age(execution: Execution) -> int | None:
    return None if execution.max_age is None else math.floor(execution.max_age)


def _pause(elapsed: float) -> float:
    return min(2.0, max(0.1, elapsed / 5))


def _failed(job: Job) -> Ending:
    text = LOST_TEXT if job.status == _UNKNOWN else job.error or NO_TEXT
    return Ending(_kind(text), error=text)


def _kind(error: str) -> ExecutionResult:
    if error == CANCELLED_TEXT:
        return "cancelled"
    return "lost" if error == LOST_TEXT else "failure"
