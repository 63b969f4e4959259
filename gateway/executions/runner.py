"""Doing one run: POST, job, result, check, keep. Its state and who waits for it are in `execution.py`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from gateway.concurrency.events import wait_for
from gateway.concurrency.spool import Spool
from gateway.errors import UpstreamError, UpstreamUnusable
from gateway.executions.execution import CANCELLED_TEXT, Execution, Phase
from gateway.executions.guard import may_be_mixed_up, shows_what_was_asked
from gateway.model import Clock, Definition
from gateway.outcome import ExecutionResult
from gateway.policy.plan import Plan, upstream_post
from gateway.redash.answers import Job, ResultHead, read_beginning
from gateway.redash.requests import ExecuteText
from gateway.results.cache import Results, early_entry, read_any, read_result
from gateway.results.fetcher import Fetching
from gateway.upstream.request import Upstream, UpstreamRequest, UpstreamResponse, refusal

log = logging.getLogger("gateway.runner")

DefinitionNow = Callable[[], Awaitable[Definition | None]]
Followed = Callable[[Execution], Awaitable[None]]

LOST_TEXT: Final = "Redash no longer knows this job (it was restarted, or the job expired); run the query again."
NO_TEXT: Final = "The query failed in Redash without a text."
RE_RUNS: Final = 3
"""How often a query is run again when Redash answers with the rows of another SQL text (CONTRACT 7)."""

_JOB_ROUTE: Final = "/api/jobs/{job_id}"
_NESTED_JOB_ROUTE: Final = "/api/queries/{query_id}/jobs/{job_id}"
_UNKNOWN: Final = 0
"""Our own status for a job that Redash does not know."""

_AGAIN_SECONDS: Final = 1.0
_PATIENCE: Final = 60.0
"""Seconds for which polls may fail before an execution is given up as lost."""


class Runner:
    """Does the run: POST, job, result, check, keep."""

    def __init__(self, upstream: Upstream, results: Results, fetching: Fetching, clock: Clock) -> None:
        self._upstream = upstream
        self._results = results
        self._fetching = fetching
        self._clock = clock

    async def run(self, execution: Execution, definition_now: DefinitionNow, followed: Followed) -> None:
        """Run `x` to its end: `x.found` is set, or `x.status` is 4.

        `definition_now` asks for the definition again (an edit may explain other SQL), `followed` is told when Redash
        has made a job of it.

        Raises:
            GatewayError: Redash refused, is away, or answered unusably.
        """
        forced = may_be_mixed_up(execution.plan)
        for attempt in range(1 + RE_RUNS):
            max_age = 0 if attempt or forced else _upstream_max_age(execution)
            begun = self._clock.monotonic()
            response, head = await self._ask(execution, max_age, followed)
            if head is None or response is None:
                return  # failed or cancelled
            if await shows_what_was_asked(execution.plan, execution.plan.definition, head):
                await self._keep(execution, head, response, begun, execution.plan.marker)
                return
            if definition_now is not None and await self._explained_by_edit(execution, head, definition_now):
                await self._keep(execution, head, response, begun, "")
                return
            response.body.give_up()
            log.warning("rows of other SQL came back; running it again", extra={"fields": {"execution": execution.id}})
        raise UpstreamUnusable(
            "Redash answered with the rows of another SQL text that differs in white space only (its cache ignores "
            "white space, also inside quotes). Make the texts differ in more than white space."
        )

    async def resume(self, execution: Execution, definition_now: DefinitionNow, followed: Followed) -> None:
        """Go on with a run that an earlier process began: follow its job, then as in `run`."""
        begun = execution.started
        response, head = await self._follow(execution, Job(id=execution.upstream_job, status=execution.status))
        if (
            head is not None
            and response is not None
            and await shows_what_was_asked(execution.plan, execution.plan.definition, head)
        ):
            await self._keep(execution, head, response, begun, execution.plan.marker)
        elif head is not None:
            await self.run(execution, definition_now, followed)

    async def _ask(
        self, execution: Execution, max_age: int | None, followed: Followed
    ) -> tuple[UpstreamResponse | None, ResultHead | None]:
        execution.phase = max(execution.phase, Phase.ASKING)
        response, head = await self._post(execution, max_age)
        if isinstance(head, ResultHead):
            return response, head
        execution.upstream_job = head.id
        execution.status = head.status if head.status in (1, 2) else 2
        execution.phase = Phase.RUNNING
        await followed(execution)
        execution.posted.set()
        execution.answerable.set()
        return await self._follow(execution, head)

    async def _post(self, execution: Execution, max_age: int | None) -> tuple[UpstreamResponse, ResultHead | Job]:
        path, query, body = upstream_post(execution.plan.operation, max_age)
        early = partial(self._show_early, execution)
        call = UpstreamRequest(
            method="POST", path=path, query=query, body=body, route=_post_route(execution.plan), early=early
        )
        response = await self._upstream.send(execution.plan.credential, call, execution.sender)
        if response.status != 200:
            raise refusal(response)
        return response, await read_any(response.body)

    async def _follow(self, execution: Execution, job: Job) -> tuple[UpstreamResponse | None, ResultHead | None]:
        """Poll until the job has ended, then fetch what it made."""
        began = self._clock.monotonic()
        failing_since: float | None = None
        asked_again = False
        while True:
            if job.status == 3:
                return await self._fetch_patiently(execution, job)
            if job.status in (4, _UNKNOWN) and (job.error or asked_again):
                text = LOST_TEXT if job.status == _UNKNOWN else job.error or NO_TEXT
                execution.fail(text, _kind(text))
                return None, None
            asked_again = job.status in (4, _UNKNOWN)
            execution.status = job.status if job.status in (1, 2) else execution.status
            execution.updated_at = job.updated_at
            await wait_for(
                execution.stopping, _AGAIN_SECONDS if asked_again else _pause(self._clock.monotonic() - began)
            )
            if execution.cancelled:
                execution.fail(CANCELLED_TEXT, "cancelled")
                return None, None
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
        nested = credential.is_query_key
        path = (
            f"/api/queries/{execution.plan.query_id}/jobs/{execution.upstream_job}"
            if nested
            else f"/api/jobs/{execution.upstream_job}"
        )
        call = UpstreamRequest(method="GET", path=path, route=_NESTED_JOB_ROUTE if nested else _JOB_ROUTE)
        response = await self._upstream.send(credential, call, execution.sender)
        if response.status == 500:  # what Redash says of a job that it does not know (CONTRACT 9)
            return Job(status=_UNKNOWN)
        if response.status != 200:
            raise refusal(response)
        job = await read_any(response.body)
        if not isinstance(job, Job):
            raise UpstreamUnusable("Redash's answer is not the JSON of a job.")
        return job

    async def _fetch_patiently(
        self, execution: Execution, job: Job
    ) -> tuple[UpstreamResponse | None, ResultHead | None]:
        """Fetch the result; rows that lie ready in Redash are not lost because it cannot be reached for a moment."""
        began = self._clock.monotonic()
        while True:
            try:
                return await self._fetch(execution, job)
            except (UpstreamError, UpstreamUnusable):
                if self._clock.monotonic() - began > _PATIENCE:
                    raise
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _fetch(self, execution: Execution, job: Job) -> tuple[UpstreamResponse | None, ResultHead | None]:
        """Fetch the result of a finished job. A query key must POST again: it may not read by id (CONTRACT 8)."""
        if execution.plan.credential.is_query_key:
            response, head = await self._post(execution, None)
            if not isinstance(head, ResultHead):
                execution.upstream_job = head.id
                return await self._follow(execution, head)
            return response, head
        if not isinstance(job.query_result_id, int):
            raise UpstreamUnusable("Redash finished the job without naming a result.")
        early = partial(self._show_early, execution)
        response = await self._fetching.download(
            execution.plan.credential, job.query_result_id, "json", None, execution.sender, early
        )
        return response, await read_result(response.body)

    async def _show_early(self, execution: Execution, beginning: UpstreamResponse, spool: Spool) -> None:
        """Show a large result to those who wait while it arrives, if its first bytes say that it is theirs."""
        head = read_beginning(beginning.body.load())
        if head is None or (head.reduced and not execution.plan.credential.is_query_key):
            return  # the SQL would have to stand there
        if await shows_what_was_asked(execution.plan, execution.plan.definition, head):
            execution.show_early(
                early_entry(execution.plan.credential, execution.plan.query_id, head, beginning), spool
            )

    async def _explained_by_edit(self, execution: Execution, head: ResultHead, definition_now: DefinitionNow) -> bool:
        definition = await definition_now()
        edited = definition is not None and definition.marker != execution.plan.marker
        return edited and await shows_what_was_asked(execution.plan, definition, head)

    async def _keep(
        self, execution: Execution, head: ResultHead, response: UpstreamResponse, begun: float, marker: str
    ) -> None:
        execution.found = await self._results.keep(
            execution.plan.credential,
            execution.plan.query_id,
            head,
            response,
            key=execution.plan.key,
            marker=marker,
            begun=-math.inf if execution.purged else begun,
            confirmed=response.sent if marker or execution.plan.definition is None else -math.inf,
        )
        execution.status = 3


def _upstream_max_age(execution: Execution) -> int | None:
    return None if execution.max_age is None else math.floor(execution.max_age)


def _pause(elapsed: float) -> float:
    return min(2.0, max(0.1, elapsed / 5))


def _kind(error: str) -> ExecutionResult:
    if error == CANCELLED_TEXT:
        return "cancelled"
    return "lost" if error == LOST_TEXT else "failure"


def _post_route(plan: Plan) -> str:
    if isinstance(plan.operation, ExecuteText):
        return "/api/query_results"
    return "/api/queries/{query_id}/refresh" if plan.operation.refresh else "/api/queries/{query_id}/results"
