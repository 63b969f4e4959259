"""THE WAY of one request: admit, read, know, decide, look, join, execute, keep, answer, tell; in README, too."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway import config
from gateway.errors import NotAcceptable, NotFound, QueryFailed, ServiceUnavailable, UpstreamRefused
from gateway.executions.execution import Execution, Phase
from gateway.executions.jobs import Jobs, JobView
from gateway.executions.lookup import ResultLookup
from gateway.model import Body, Clock, Definition, Entry, Request, Response, Ticket
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Access, Caller, Credential, check_capability, check_operation, check_raw_sql
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan, decide
from gateway.policy.quotas import Quotas
from gateway.redash.parameters import from_query_string
from gateway.redash.requests import (
    CancelJob,
    Execute,
    ExecuteText,
    Operation,
    ReadJob,
    ReadLatest,
    ReadParameterised,
    ReadResult,
    Relay,
    ResultForm,
    read,
)
from gateway.redash.routes import Match, match
from gateway.results.bindings import Bindings
from gateway.results.cache import Found, Results, Shown
from gateway.results.definitions import Definitions
from gateway.results.metadata import Metadata
from gateway.results.reader import ResultReader

_NO_PERMISSION: Final = (
    b'{"job": {"status": 4, "error": "You do not have permission to run queries with this data source."}}'
)


class Gateway:
    """All parts of one configuration, and the way of a request through them."""

    def __init__(
        self,
        settings: config.Config,
        *,
        access: Access,
        quotas: Quotas,
        bindings: Bindings,
        definitions: Definitions,
        results: Results,
        lookup: ResultLookup,
        jobs: Jobs,
        reading: ResultReader,
        metadata: Metadata,
        clock: Clock,
        slug: str,
    ) -> None:
        self.settings = settings
        self.access = access
        self.quotas = quotas
        self.bindings = bindings
        self.definitions = definitions
        self.results = results
        self.lookup = lookup
        self.jobs = jobs
        self.reading = reading
        self.metadata = metadata
        self.clock = clock
        self.slug = slug
        self.draining = False
        """Stopping: nobody is held any more."""

    def admit(self, request: Request, outcome: Outcome) -> tuple[Match, Caller | None]:
        """Say which route it is and who asks (None: whoever, of `/ping`); count it against the client's rate.

        Raises:
            GatewayError: there is no such route, or the caller may not come in.
        """
        outcome.method = request.method
        found = match(request.method, request.path, self.slug)
        outcome.route = found.route.template
        if found.route.kind == "ping":
            return found, None
        caller, outcome.token_sha256 = self.access.admit(request.headers, request.query_string, self.clock.wall())
        outcome.client = caller.name
        self.quotas.take(caller, outcome)
        return found, caller

    async def respond(self, request: Request, found: Match, caller: Caller | None, outcome: Outcome) -> Response:
        """Answer one request that was admitted; `outcome` is filled in along the way.

        Raises:
            GatewayError: whatever the caller must be told instead.
        """
        if caller is None:
            return Response(body=Body.of(b"PONG."), content_type="text/html; charset=utf-8")
        check_capability(caller, found)
        operation = read(found, request.query_string, request.body)
        check_operation(caller, operation)
        outcome.query_id = found.number("query_id")
        sender = Sender(caller.name, outcome.request_id, outcome.trace, outcome)
        context = RequestContext(request, caller, found, sender, outcome)
        access = self.access  # by which it was admitted; a reload may come while it waits
        allowed = await self.bindings.check(access, context, operation)
        response = await self._dispatch(context, operation, allowed)
        if response.ticket is not None and allowed is not None:
            until = self.bindings.unquestioned_until(access, caller)
            response.ticket = msgspec.structs.replace(
                response.ticket, good_until=min(response.ticket.good_until, until)
            )
        return response

    async def _dispatch(
        self, context: RequestContext, operation: Operation, allowed: frozenset[int] | None
    ) -> Response:
        match operation:
            case Execute() | ExecuteText():
                return await self._post(context, operation)
            case ReadParameterised():
                return await self._get_parameterised(context, operation)
            case ReadLatest():
                return await self.reading.latest(context, self._credential(context, operation), operation)
            case ReadResult():
                return await self.reading.by_id(context, self.access, operation, allowed)
            case ReadJob():
                return await self._read_job(context, operation, allowed)
            case CancelJob():
                await self.jobs.cancel(operation, context.caller, allowed, context.sender)
                return Response(body=Body.of(b"null"))
            case Relay():
                clean = self.access.without_tokens(operation.arguments)
                operation = msgspec.structs.replace(operation, arguments=clean)
                return await self.metadata.respond(context, self._credential(context, operation), operation)
        raise NotFound("This is no route of the Redash API that the gateway serves.")

    def _credential(self, context: RequestContext, operation: Operation) -> Credential:
        return self.access.credential(context.caller, context.match, operation)

    # -- know, decide ----------------------------------------------------------------------------------------------

    async def _decide(
        self, context: RequestContext, operation: Execute | ExecuteText, definition: Definition | None
    ) -> Plan:
        if definition is not None:
            check_raw_sql(context.caller, operation, definition)
        credential = self._credential(context, operation)
        return decide(operation, context.caller, credential, definition, self.settings.cache)

    async def know(self, credential: Credential, query_id: int, sender: Sender) -> Definition:
        """Return a query's definition, at most as old as the configuration allows."""
        return await self.definitions.know(credential, query_id, sender, self.settings.cache)

    # -- answer: POST ----------------------------------------------------------------------------------------------

    async def _post(self, context: RequestContext, operation: Execute | ExecuteText) -> Response:
        definition = None
        if isinstance(operation, Execute):
            definition = await self._know_to_execute(context, self._credential(context, operation), operation.query_id)
        plan = await self._decide(context, operation, definition)
        obtained = await self.lookup.obtain(plan, context.sender, context.outcome)
        if context.wait is not None:
            obtained = await self.lookup.wait(obtained, self._patience(context.wait), plan, context.outcome)
        if obtained.found is not None:
            return await self._stored_answer(context, plan, obtained.found)
        assert obtained.execution is not None  # noqa: S101 - it is one or the other
        return await self._execution_answer(context, plan, obtained.execution)

    async def _know_to_execute(self, context: RequestContext, credential: Credential, query_id: int) -> Definition:
        try:
            return await self.know(credential, query_id, context.sender)
        except UpstreamRefused as refused:
            if refused.status_code != 403:
                raise
            # Refusals to execute have the shape of a job (CONTRACT 3); the question was for the query object.
            raise UpstreamRefused(403, Body.of(_NO_PERMISSION), "application/json") from None

    async def _stored_answer(self, context: RequestContext, plan: Plan, found: Found) -> Response:
        """Answer with a stored result; with a finished job where the caller asked for a run (it indexes `job`)."""
        if plan.forced and context.wait is None:
            result_id = found[0].result_id
            job = await self.jobs.finished(plan, result_id, context.caller.name, context.sender)
            return Response(body=Body.of(job.body()))
        ticket = self._ticket(context, plan, found[0])
        return Response(body=found[1], entry=found[0], waited=self._waited(context), ticket=ticket)

    def _ticket(self, context: RequestContext, plan: Plan, entry: Entry) -> Ticket | None:
        now = self.clock.monotonic()
        until = now + (plan.accepts(entry, now) or 0.0)
        if plan.definition is not None:
            scope = plan.credential.scope
            until = min(until, self.definitions.unquestioned_until(plan.definition, scope, self.settings.cache))
        return context.ticket(plan.key, entry, plan.query_id, until, self.clock.wall(), now)

    async def _execution_answer(self, context: RequestContext, plan: Plan, execution: Execution) -> Response:
        """Answer from an execution: its result, Redash's refusal, or a job of the caller's own."""
        if execution.phase is Phase.ENDED and not execution.upstream_job and execution.failure is not None:
            raise execution.failure
        inline = not execution.upstream_job and plan.max_age != 0 and not plan.forced
        if execution.found is not None and (inline or context.wait is not None):
            context.outcome.stored = True
            context.outcome.age = execution.found[0].age(self.clock.monotonic())
            return Response(body=execution.found[1], entry=execution.found[0], waited=self._waited(context))
        if execution.arriving is not None and (inline or context.wait is not None):
            return Response(body=execution.arriving[1], waited=self._waited(context))
        return self._job_answer(context, await self.jobs.new(execution, context.caller.name))

    def _job_answer(self, context: RequestContext, view: JobView) -> Response:
        pending = view.pending and context.wait is not None
        return Response(body=Body.of(view.body()), waited=self._waited(context), retry_after=1.0 if pending else None)

    def _patience(self, wait: float) -> float:
        return 0.0 if self.draining else min(wait, self.settings.server.max_wait)

    def _waited(self, context: RequestContext) -> int | None:
        return None if context.wait is None else min(context.wait, math.floor(self.settings.server.max_wait))

    # -- answer: GET with parameters -------------------------------------------------------------------------------

    async def _get_parameterised(self, context: RequestContext, operation: ReadParameterised) -> Response:
        """Answer with the result itself, never with a job: one URL for a spreadsheet, pandas or curl."""
        credential = self._credential(context, operation)
        definition = await self.know(credential, operation.query_id, context.sender)
        now = datetime.fromtimestamp(self.clock.wall(), UTC).astimezone(ZoneInfo(self.settings.cache.timezone))
        values = from_query_string(definition, list(operation.arguments), now)
        execute = Execute(operation.query_id, operation.max_age, values, None)
        plan = await self._decide(context, execute, definition)
        if operation.form == "xlsx" and credential.is_query_key:
            raise NotAcceptable("A query key's answer cannot be made into XLSX; ask for csv, tsv or json.")
        shown = await self._result_for(context, plan, operation.form)
        return await self.reading.rendered(context, credential, shown, operation.form, definition)

    async def _result_for(self, context: RequestContext, plan: Plan, form: ResultForm) -> Shown:
        if context.request.method == "HEAD":
            return await self._result_without_running(context, plan)
        obtained = await self.lookup.obtain(plan, context.sender, context.outcome)
        patience = self._patience(self.settings.server.max_wait)

        def enough(early: Entry) -> bool:
            # A file's name has the day of the result; what is made from the JSON needs all of it.
            return form == "json" and early.retrieved_at != ""

        obtained = await self.lookup.wait(obtained, patience, plan, context.outcome, enough=enough)
        if obtained.found is not None:
            return obtained.found
        execution = obtained.execution
        assert execution is not None  # noqa: S101 - it is one or the other
        if execution.found is not None:
            context.outcome.stored = True
            return execution.found
        if execution.arriving is not None and enough(execution.arriving[0]):
            return execution.arriving
        if execution.phase is not Phase.ENDED:
            raise ServiceUnavailable("The query is still running; ask again for the same URL.", retry_after=5)
        if execution.failure is not None:
            raise execution.failure
        raise QueryFailed(execution.error)

    async def _result_without_running(self, context: RequestContext, plan: Plan) -> Found:
        found = await self.results.find(plan.key)
        slack = plan.accepts(found[0], self.clock.monotonic()) if found is not None else None
        if found is None or slack is None or slack < 0:
            raise NotFound("Nothing stored answers this, and HEAD runs no query; GET does.")
        context.outcome.hit(slack, found[0].age(self.clock.monotonic()), found[0].runtime)
        return found

    # -- answer: jobs ----------------------------------------------------------------------------------------------

    async def _read_job(self, context: RequestContext, operation: ReadJob, allowed: frozenset[int] | None) -> Response:
        patience = self._patience(context.wait) if context.wait is not None else 0.0
        view = await self.jobs.look_up(operation, context.caller, allowed, patience)
        context.outcome.execution_id, context.outcome.query_id = view.execution_id, view.query_id or None
        return self._job_answer(context, view)
