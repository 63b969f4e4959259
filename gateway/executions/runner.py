"""Does one run: POST, job, result, check, store. Its state is in `execution`; callers join it in `flights`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from gateway.errors import CredentialRejected, UpstreamError, UpstreamRefused, UpstreamUnusable, is_denial
from gateway.executions.acceptance import Acceptance
from gateway.executions.ending import Ending
from gateway.executions.execution import Execution, Phase
from gateway.executions.expectations import Expectations
from gateway.executions.following import AGAIN_SECONDS, PATIENCE_SECONDS, Ask, Fetched, Follower
from gateway.executions.guard import may_be_of_earlier_text
from gateway.executions.polling import Polls
from gateway.executions.waits import Waits
from gateway.model import Clock
from gateway.redash import calls
from gateway.redash.responses import Job
from gateway.results.cache import ResultCache
from gateway.results.fetcher import ResultFetcher
from gateway.results.loading import load_result, load_result_or_job
from gateway.upstream.protocol import Upstream, refusal

log = logging.getLogger("gateway.executions")

Followed = Callable[[Execution], Awaitable[None]]

RE_RUNS: Final = 3
"""How often a query is run again when Redash responds with the rows of another SQL text (CONTRACT 7)."""


class Runner:
    """Does the run: POST, job, result, check, store."""

    def __init__(
        self,
        upstream: Upstream,
        acceptance: Acceptance,
        results: ResultCache,
        fetcher: ResultFetcher,
        expectations: Expectations,
        waits: Waits,
        clock: Clock,
    ) -> None:
        self.acceptance = acceptance
        self._upstream, self._results, self._fetcher = upstream, results, fetcher
        self.follower, self._expectations = Follower(upstream, clock), expectations
        self._waits, self._clock = waits, clock

    async def check(self, execution: Execution) -> Ending | None:
        """Ask Redash whether a stored result is still the newest; None if a run is needed.

        No lease is held, because Redash runs nothing for this request where it has rows. Where it has none, it has
        begun a run, which is to be resumed. Raises as `run`.
        """
        marker = execution.plan.marker
        execution.phase = Phase.POSTING
        await self.acceptance.check_definition(execution)
        if execution.plan.marker != marker or await self.acceptance.oldest(execution, None) is not None:
            return None
        begun = self._clock.monotonic()
        posted = await self._post(execution, None)
        if isinstance(posted, Job):  # Redash has lost the rows, or the query was edited just now
            execution.rows_from = begun
            execution.is_known = True  # this very run is to be followed, not another one
            _note_job(execution, posted)
            return None
        if await self.acceptance.are_requested(execution, posted):
            return await self.acceptance.store(execution, posted, begun, marker)
        posted.response.body.give_up()
        return None

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
        await self.acceptance.check_definition(execution)
        begun = self._clock.monotonic()
        fetched = await self._request(execution, followed, again=again)
        if isinstance(fetched, Ending):
            return fetched
        if await self.acceptance.has_requested_sql(execution, fetched.head):
            return await self.acceptance.store(execution, fetched, begun, execution.plan.marker)
        if await self.acceptance.explained_by_edit(execution, fetched.head):
            return await self.acceptance.store(execution, fetched, begun, "")
        fetched.response.body.give_up()
        log.warning("got the rows of another SQL; running again", extra={"fields": {"execution": execution.id}})
        return None

    async def fetch(self, execution: Execution, job: Job) -> Ending:
        """Fetch the result of a job that has ended, as another gateway has seen. Raises as `run`."""
        await self.acceptance.prepare(execution)
        ask = partial(self._ask, execution, _unfollowed, again=False)
        fetched = await self._fetch_patiently(execution, job, ask)
        if isinstance(fetched, Ending):
            return fetched
        if await self.acceptance.has_requested_sql(execution, fetched.head):
            return await self.acceptance.store(execution, fetched, execution.started, execution.plan.marker)
        if fetched.head.reduced or fetched.head.id != job.result_id:
            raise UpstreamUnusable("Redash has no longer the result of this run; run the query again.")
        # The gateway that led the run has compared it with the text of then; an edit may have come before or after.
        return await self.acceptance.store(execution, fetched, execution.started, "")

    async def resume(self, execution: Execution, followed: Followed) -> Ending:
        """Continue a run that an earlier process or a check began: follow its job, then as in `run`."""
        if not execution.recorded:
            await _announce(execution, followed)
        begun = execution.started
        job = Job(id=execution.upstream_job, status=execution.upstream_status)
        fetched = await self._follow(execution, job, partial(self._ask, execution, followed, again=False))
        if isinstance(fetched, Ending):
            return fetched
        if await self.acceptance.has_requested_sql(execution, fetched.head):
            return await self.acceptance.store(execution, fetched, begun, execution.plan.marker)
        return await self.run(execution, followed)

    async def _request(self, execution: Execution, followed: Followed, *, again: bool) -> Fetched | Ending:
        execution.phase = max(execution.phase, Phase.POSTING)
        posted = await self._run_or_read(execution, again=again)
        if isinstance(posted, Fetched):
            return posted
        _note_job(execution, posted)
        await _announce(execution, followed)
        expected = self._expectations.seconds(execution.plan)
        return await self._follow(execution, posted, partial(self._ask, execution, followed, again=again), expected)

    async def _run_or_read(self, execution: Execution, *, again: bool) -> Fetched | Job:
        """Send the POST with its max_age; cached rows that may be those of an earlier text are not taken."""
        max_age = 0 if again else execution.upstream_max_age(self._clock.monotonic())
        max_age = await self.acceptance.oldest(execution, max_age)
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
        early = partial(self.acceptance.show_early, execution)
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
        found = await self.follower.follow(execution, job, execution.polls, ask)
        if isinstance(found, Job):
            found = await self._fetch_patiently(execution, found, ask)
        execution.work.end(self._clock.monotonic(), found.runtime if isinstance(found, Fetched) else None)
        return found

    async def _ask(self, execution: Execution, followed: Followed, *, again: bool) -> Fetched | Job:
        """Send the POST once more, as Redash may have lost the job, or the run may have ended without it.

        Callers may join meanwhile that do not accept what this POST has brought: then it is sent once more.
        """
        await self.acceptance.check_definition(execution)
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
            await self.acceptance.check_definition(execution)
            posted = await self._post(execution, None)
            if isinstance(posted, Fetched):
                return posted
            execution.upstream_job = posted.id
            return await self._follow(execution, posted, ask)
        if job.result_id is None:
            raise UpstreamUnusable("Redash finished the job without naming a result.")
        early = partial(self.acceptance.show_early, execution)
        response = await self._fetcher.download(credential, job.result_id, "json", execution.sender, early)
        return Fetched(response, await load_result(response.body))


def _note_job(execution: Execution, job: Job) -> None:
    execution.upstream_job = job.id
    execution.upstream_status = job.status if job.status in (1, 2) else 2
    execution.phase = Phase.RUNNING


async def _announce(execution: Execution, followed: Followed) -> None:
    """Let everybody know that Redash has made a job for it."""
    await followed(execution)
    execution.posted.set()
    execution.can_respond.set()


async def _unfollowed(_execution: Execution) -> None:
    """Record nothing: the run is another gateway's."""
