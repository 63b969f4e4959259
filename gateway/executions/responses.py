"""Responses made of what a look-up or an execution brought: a result, Redash's refusal, or a job of the caller."""

from __future__ import annotations

from gateway.errors import QueryFailed, ServiceUnavailable
from gateway.executions.execution import Execution, Phase
from gateway.executions.jobs import Jobs, JobView
from gateway.executions.lookup import Pending, is_enough
from gateway.model import Body, Clock, Entry, Response, ReuseTerms
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan
from gateway.redash.requests import CancelJob, Operation, ReadJob, ReadParameterised, ResultForm
from gateway.results.cache import AnyResult, StoredResult
from gateway.results.definitions import Definitions
from gateway.results.reader import ResultReader


class ExecutionResponses:
    """Gives each caller the shape that it asked for (CONTRACT 6 and 9)."""

    def __init__(self, jobs: Jobs, definitions: Definitions, reader: ResultReader, clock: Clock) -> None:
        self._jobs = jobs
        self._definitions = definitions
        self._reader = reader
        self._clock = clock

    async def respond(
        self, context: RequestContext, operation: Operation, plan: Plan, found: StoredResult | Pending
    ) -> Response:
        """Respond to a request for a result with what a look-up has found.

        Raises:
            GatewayError: Redash refused, is unavailable, or responded unusably, and there is no job to say so.
            ServiceUnavailable, QueryFailed: only of a GET with parameters: the run has not ended, or it failed.
        """
        if isinstance(operation, ReadParameterised):
            return await self._result_itself(context, plan, found, operation.form)
        if isinstance(found, StoredResult):
            return await self._stored(context, plan, found)
        execution = found.execution
        if execution.failure is not None and not execution.upstream_job:
            raise execution.failure
        inline = not execution.upstream_job and plan.max_age != 0 and not plan.forced
        if inline or context.wait is not None:
            stored = execution.stored
            if stored is not None:
                context.outcome.stored = True
                context.outcome.age = stored.entry.age(self._clock.monotonic())
                return Response(body=stored.body, entry=stored.entry, waited=context.wait)
            if execution.arriving is not None:
                return Response(body=execution.arriving.body, waited=context.wait)
        return self._job(context, await self._jobs.new(execution, context.caller.name, context.outcome.token_sha256))

    async def _stored(self, context: RequestContext, plan: Plan, found: StoredResult) -> Response:
        """Respond with a stored result; with a finished job to a caller that asked for a run (it indexes `job`)."""
        if plan.forced and context.wait is None:
            result_id = found.entry.result_id
            job = await self._jobs.finished(plan, result_id, context.sender, context.outcome.token_sha256)
            return Response(body=Body.of(job.body()))
        reuse = self._reuse(context, plan, found.entry)
        return Response(body=found.body, entry=found.entry, waited=context.wait, reuse=reuse)

    def _reuse(self, context: RequestContext, plan: Plan, entry: Entry) -> ReuseTerms | None:
        now = self._clock.monotonic()
        until = now + (context.outcome.ttl or 0.0)
        if plan.definition is not None:
            until = min(until, self._definitions.good_until(plan.definition, plan.credential.scope))
        return context.reuse(plan.key, entry, plan.query_id, until, self._clock.wall(), now)

    async def _result_itself(
        self, context: RequestContext, plan: Plan, found: StoredResult | Pending, form: ResultForm
    ) -> Response:
        """Respond with the result, never with a job: one URL for a spreadsheet, pandas or curl."""
        result = found if isinstance(found, StoredResult) else _result_of(found.execution, form)
        if isinstance(found, Pending) and isinstance(result, StoredResult):
            context.outcome.stored = True
        assert plan.definition is not None  # noqa: S101 - only saved queries have this form
        return await self._reader.rendered(context, plan.credential, result, form, plan.definition)

    async def job(self, context: RequestContext, operation: ReadJob, allowed: frozenset[int] | None) -> Response:
        """Respond with what is known of a job, after `Prefer: wait=N` if it has not ended.

        Raises:
            NotFound: as `Jobs.look_up`.
        """
        scopes = context.configured.access.scopes(context.caller)
        view = await self._jobs.look_up(operation, context.caller, scopes, allowed, context.wait)
        context.outcome.execution_id, context.outcome.query_id = view.execution_id, view.query_id or None
        return self._job(context, view)

    async def cancel(self, context: RequestContext, operation: CancelJob, allowed: frozenset[int] | None) -> Response:
        """Cancel a job and say so as Redash does.

        Raises:
            NotFound: as `Jobs.look_up`.
        """
        await self._jobs.cancel(operation, context.caller, allowed, context.sender)
        return Response(body=Body.of(b"null"))

    def _job(self, context: RequestContext, view: JobView) -> Response:
        pending = view.pending and context.wait is not None
        return Response(body=Body.of(view.body()), waited=context.wait, retry_after=1.0 if pending else None)


def _result_of(execution: Execution, form: ResultForm) -> AnyResult:
    if execution.stored is not None:
        return execution.stored
    if execution.arriving is not None and is_enough(execution.arriving, form):
        return execution.arriving
    if execution.phase is not Phase.ENDED:
        raise ServiceUnavailable("The query is still running; ask again for the same URL.", retry_after=5)
    if execution.failure is not None:
        raise execution.failure
    raise QueryFailed(execution.ending.error if execution.ending is not None else "")
