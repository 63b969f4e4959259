"""Makes the response from a look-up or an execution: a result, Redash's refusal, or a job for the caller."""

from __future__ import annotations

import math
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.body import Body
from gateway.errors import NotFound, QueryFailed, ServiceUnavailable
from gateway.executions.execution import Execution, Phase
from gateway.executions.found import Pending, is_enough
from gateway.executions.job_views import JobView
from gateway.executions.jobs import Jobs
from gateway.executions.lookup import ResultLookup
from gateway.executions.purging import Purging
from gateway.model import Clock, Definition, Entry, Response, ReuseTerms
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan, check_raw_sql
from gateway.redash.downloads import CONTENT_TYPES, ResultForm
from gateway.redash.purges import Purge
from gateway.redash.requests import CancelJob, Operation, ReadJob, ReadParameterised
from gateway.results.cache import AnyResult, StoredResult
from gateway.results.definitions import Definitions
from gateway.results.pauses import Pauses
from gateway.results.reader import ResultReader

MOST_HOPS: Final = 8
"""How often a caller is redirected to its run; urllib follows ten redirects, and no more."""

_RECENT: Final = 10_000
_NOTHING: Final = Body.of(b"")


class ExecutionResponses:
    """Gives each caller the response shape that its request expects (CONTRACT 6 and 9)."""

    def __init__(
        self,
        jobs: Jobs,
        purging: Purging,
        lookup: ResultLookup,
        definitions: Definitions,
        pauses: Pauses,
        reader: ResultReader,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._purging = purging
        self._lookup = lookup
        self._joined: LRUCache[str, bool] = LRUCache(_RECENT)  # by job id: whether its caller joined another's run
        self._definitions = definitions
        self._pauses = pauses
        self._reader = reader
        self._clock = clock

    async def respond(
        self, context: RequestContext, operation: Operation, plan: Plan, found: StoredResult | Pending
    ) -> Response:
        """Respond to a request for a result with what the look-up found.

        Raises:
            GatewayError: Redash refused, is unavailable, or responded unusably, and there is no job to report it.
            ServiceUnavailable, QueryFailed: only for a GET with parameters: the run lasts too long, or it failed.
        """
        if isinstance(operation, ReadParameterised):
            assert plan.definition is not None  # noqa: S101 - only saved queries have this form
            return await self._result_itself(context, operation, plan.definition, found)
        if isinstance(found, StoredResult):
            return await self._stored(context, plan, found)
        execution = found.execution
        if execution.failure is not None and not execution.upstream_job:
            raise execution.failure.copy()
        inline = not execution.upstream_job and plan.max_age != 0 and not plan.forced
        if inline or context.wait is not None:
            stored = execution.stored
            if stored is not None and stored.is_readable:
                return self._new(context, stored)
            if (arriving := found.arriving) is not None:
                return Response(body=arriving.body, waited=context.wait)
        return self._job(context, await self._new_job(context, found))

    async def _new_job(self, context: RequestContext, pending: Pending) -> JobView:
        token, stored = context.outcome.token_sha256, pending.fallback
        fallback = stored.entry.result_id if stored is not None else None
        return await self._jobs.new(pending.execution, context.caller.name, token, pending.not_before, fallback)

    def _new(self, context: RequestContext, stored: StoredResult) -> Response:
        """Respond with a result that was just stored, or passed on."""
        context.outcome.stored = stored.body.is_kept
        context.outcome.age = stored.entry.age(self._clock.monotonic())
        entry = stored.entry if stored.body.is_kept else None
        return Response(body=stored.content, entry=entry, waited=context.wait)

    async def _stored(self, context: RequestContext, plan: Plan, found: StoredResult) -> Response:
        """Respond with a stored result; with a finished job, if the caller requested a run (it expects `job`)."""
        if plan.forced and context.wait is None:
            result_id = found.entry.result_id
            job = await self._jobs.finished(plan, result_id, context.sender, context.outcome.token_sha256)
            return Response(body=Body.of(job.body()))
        reuse = self._reuse(context, plan, found.entry)
        return Response(body=found.body, entry=found.entry, waited=context.wait, reuse=reuse)

    def _reuse(self, context: RequestContext, plan: Plan, entry: Entry) -> ReuseTerms | None:
        now = self._clock.monotonic()
        until = min(now + (context.outcome.ttl or 0.0), self._pauses.good_until(plan))
        if plan.definition is not None:
            until = min(until, self._definitions.good_until(plan.definition, plan.credential.scope))
        return context.reuse(plan.key, entry, plan.query_id, until, self._clock.wall(), now)

    async def head(
        self, context: RequestContext, operation: Operation, plan: Plan, found: StoredResult | Pending | None
    ) -> Response:
        """Respond to a HEAD: as to a GET where that needs no run, else without a length."""
        if found is not None:
            return await self.respond(context, operation, plan, found)
        return _unsized(operation.form if isinstance(operation, ReadParameterised) else "json")

    async def go_on(
        self,
        context: RequestContext,
        operation: ReadParameterised,
        allowed: frozenset[int] | None,
    ) -> Response:
        """Respond to a caller that was redirected to its run, with the result of that run; starts no other.

        The values are those of the first request, so dynamic dates do not change; permissions are checked again.

        Raises:
            GatewayError: as `respond`.
            NotFound: no run of this caller, query and credential has that job id.
        """
        credential, outcome = context.credential, context.outcome
        definition = await self._definitions.get(credential, operation.query_id, context.sender)
        check_raw_sql(context.caller, operation, definition)
        requested = ReadJob(operation.run, operation.query_id)
        job, run = await self._jobs.run_of(requested, context.caller, allowed, credential.scope)
        joined = self._joined.get(operation.run, False)
        outcome.record_miss("forced" if operation.max_age == 0 else "continued", joined=joined)
        if context.request.method == "HEAD":
            return _unsized(operation.form)
        if isinstance(run, Execution):
            outcome.execution_id = run.id
            if run.plan.definition is not None and run.plan.definition.data_source_id != definition.data_source_id:
                raise NotFound("The query has been moved to another data source meanwhile; run it again.")
            pending = await self._lookup.pending(run, job)
            found = await self._lookup.wait(pending, context, operation, run.plan)
            is_others = run.standing.follows and operation.run not in run.not_before
            if isinstance(found, Pending) and is_others and run.phase is Phase.ENDED:
                return await self.go_on(context, operation, allowed)  # its record says who serves this caller
            return await self._result_itself(context, operation, definition, found)
        outcome.execution_id = run.execution_id
        if run.result_id is None:
            raise QueryFailed(run.error)
        result = await self._reader.of_run(context, credential, run.result_id, definition)
        age = result.entry.age(self._clock.monotonic())
        if self._clock.wall() - age < run.not_before:
            outcome.record_stale((operation.max_age or 0) - age, age, result.entry.runtime, "stale-if-error")
        return await self._result_itself(context, operation, definition, result)

    async def _result_itself(
        self,
        context: RequestContext,
        operation: ReadParameterised,
        definition: Definition,
        found: AnyResult | Pending,
    ) -> Response:
        """Respond with the result, never with a job: one URL for a spreadsheet, pandas or curl."""
        result: AnyResult | None
        if isinstance(found, Pending):
            result = _result_of(found, operation)
            if result is None:
                return await self._redirect_to_run(context, operation, found)
            if isinstance(result, StoredResult):
                context.outcome.stored = result.body.is_kept
                context.outcome.age = result.entry.age(self._clock.monotonic())
        else:
            result = found
        return await self._reader.rendered(context, context.credential, result, operation, definition)

    async def _redirect_to_run(
        self, context: RequestContext, operation: ReadParameterised, pending: Pending
    ) -> Response:
        """Redirect the caller to the same URL and the same run, where it waits again.

        Raises:
            ServiceUnavailable: it was redirected too often, or HTTP/1.0 has no such redirect (RFC 1945).
        """
        request, run = context.request, operation.run
        if not run:
            run = (await self._new_job(context, pending)).id
            self._joined[run] = context.outcome.cache == "collapsed"
        if operation.hops >= MOST_HOPS:
            raise ServiceUnavailable("The query is still running; request the same URL again.", retry_after=5)
        if request.is_http_1_0:
            raise ServiceUnavailable(f"The query is still running; request it again with &run={run}.", retry_after=5)
        # Relative: the gateway does not know its path on a proxy in front of it.
        location = f"{request.path.rpartition('/')[2]}?{request.query_string}&run={run}"
        return Response(status=307, body=_NOTHING, content_type="", location=location, cache_control="no-store")

    async def job(self, context: RequestContext, operation: ReadJob, allowed: frozenset[int] | None) -> Response:
        """Respond with what is known of a job, after `Prefer: wait=N` if it has not ended.

        Raises:
            NotFound: as `Jobs.look_up`.
        """
        scopes = context.configured.access.scopes(context.caller)
        until = -math.inf if context.wait is None else context.until_run(context.wait)
        began = self._clock.monotonic()
        view = await self._jobs.look_up(operation, context.caller, scopes, allowed, until)
        waited = self._clock.monotonic() - began if context.wait is not None else 0.0
        context.outcome.add_wait(waited, waited if view.status == 1 else 0.0, 0.0)
        context.outcome.execution_id, context.outcome.query_id = view.execution_id, view.query_id or None
        return self._job(context, view)

    async def cancel(self, context: RequestContext, operation: CancelJob, allowed: frozenset[int] | None) -> Response:
        """Cancel a job and respond as Redash does.

        Raises:
            NotFound: as `Jobs.look_up`.
        """
        await self._jobs.cancel(operation, context.caller, allowed, context.sender)
        return Response(body=Body.of(b"null"))

    async def purge(self, context: RequestContext, what: Purge, allowed: frozenset[int] | None) -> Response:
        """Purge in the scopes of the client, and of the queries that it may use.

        Raises:
            Forbidden: as `Purging.purge`.
        """
        scopes = context.configured.access.scopes(context.caller)
        purged = await self._purging.purge(what, scopes, allowed)
        told = {"purged": purged.entries, "queries": purged.queries} | ({"notes": purged.notes} if purged.notes else {})
        return Response(body=Body.of(msgspec.json.encode(told)), cache_control="no-store")

    def _job(self, context: RequestContext, view: JobView) -> Response:
        pending = view.pending and context.wait is not None
        return Response(body=Body.of(view.body()), waited=context.wait, retry_after=1.0 if pending else None)


def _unsized(form: ResultForm) -> Response:
    return Response(body=_NOTHING, content_type=CONTENT_TYPES[form], unsized=True)


def _result_of(pending: Pending, reading: ReadParameterised) -> AnyResult | None:
    """Return what it has brought, None if it has not ended.

    Raises:
        GatewayError: it brought nothing.
    """
    execution, arriving = pending.execution, pending.arriving
    if execution.stored is not None:
        return execution.stored
    if arriving is not None and is_enough(arriving, reading):
        return arriving
    if execution.phase is not Phase.ENDED:
        return None
    if execution.failure is not None:
        raise execution.failure.copy()
    raise QueryFailed(execution.ending.error if execution.ending is not None else "")
