"""THE WAY of one request: admit, read, know, decide, look, join, execute, keep, answer, tell; in README, too."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway import config
from gateway.errors import NotAcceptable, NotFound, QueryFailed, Unavailable, UpstreamRefused
from gateway.executions.execution import Execution, Phase
from gateway.executions.jobs import Jobs, JobView
from gateway.executions.lookup import Obtaining
from gateway.model import Answer, Body, Clock, Definition, Entry, Request, Ticket
from gateway.outcome import Outcome, Sender
from gateway.policy.access import Access, Caller, Credential, check_capability, check_operation, check_raw_sql
from gateway.policy.context import Asked
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
from gateway.results.reader import Reading

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
        obtaining: Obtaining,
        jobs: Jobs,
        reading: Reading,
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
        self.obtaining = obtaining
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

    async def answer(self, request: Request, found: Match, caller: Caller | None, outcome: Outcome) -> Answer:
        """Answer one request that was admitted; `outcome` is filled in along the way.

        Raises:
            GatewayError: whatever the caller must be told instead.
        """
        if caller is None:
            return Answer(body=Body.of(b"PONG."), content_type="text/html; charset=utf-8")
        check_capability(caller, found)
        operation = read(found, request.query_string, request.body)
        check_operation(caller, operation)
        outcome.query_id = found.number("query_id")
        sender = Sender(caller.name, outcome.request_id, outcome.trace, outcome)
        asked = Asked(request, caller, found, sender, outcome)
        access = self.access  # by which it was admitted; a reload may come while it waits
        allowed = await self.bindings.check(access, asked, operation)
        answer = await self._dispatch(asked, operation, allowed)
        if answer.ticket is not None and allowed is not None:
            until = self.bindings.unquestioned_until(access, caller)
            answer.ticket = msgspec.structs.replace(answer.ticket, good_until=min(answer.ticket.good_until, until))
        return answer

    async def _dispatch(self, asked: Asked, operation: Operation, allowed: frozenset[int] | None) -> Answer:
        match operation:
            case Execute() | ExecuteText():
                return await self._post(asked, operation)
            case ReadParameterised():
                return await self._get_parameterised(asked, operation)
            case ReadLatest():
                return await self.reading.latest(asked, self._credential(asked, operation), operation)
            case ReadResult():
                return await self.reading.by_id(asked, self.access, operation, allowed)
            case ReadJob():
                return await self._read_job(asked, operation, allowed)
            case CancelJob():
                await self.jobs.cancel(operation, asked.caller, allowed, asked.sender)
                return Answer(body=Body.of(b"null"))
            case Relay():
                clean = self.access.without_tokens(operation.arguments)
                operation = msgspec.structs.replace(operation, arguments=clean)
                return await self.metadata.answer(asked, self._credential(asked, operation), operation)
        raise NotFound("This is no route of the Redash API that the gateway serves.")

    def _credential(self, asked: Asked, operation: Operation) -> Credential:
        return self.access.credential(asked.caller, asked.match, operation)

    # -- know, decide ----------------------------------------------------------------------------------------------

    async def _decide(self, asked: Asked, operation: Execute | ExecuteText, definition: Definition | None) -> Plan:
        if definition is not None:
            check_raw_sql(asked.caller, operation, definition)
        credential = self._credential(asked, operation)
        return decide(operation, asked.caller, credential, definition, self.settings.cache)

    async def know(self, credential: Credential, query_id: int, sender: Sender) -> Definition:
        """Return a query's definition, at most as old as the configuration allows."""
        return await self.definitions.know(credential, query_id, sender, self.settings.cache)

    # -- answer: POST ----------------------------------------------------------------------------------------------

    async def _post(self, asked: Asked, operation: Execute | ExecuteText) -> Answer:
        definition = None
        if isinstance(operation, Execute):
            definition = await self._know_to_execute(asked, self._credential(asked, operation), operation.query_id)
        plan = await self._decide(asked, operation, definition)
        obtained = await self.obtaining.obtain(plan, asked.sender, asked.outcome)
        if asked.wait is not None:
            obtained = await self.obtaining.wait(obtained, self._patience(asked.wait), plan, asked.outcome)
        if obtained.found is not None:
            return await self._stored_answer(asked, plan, obtained.found)
        assert obtained.execution is not None  # noqa: S101 - it is one or the other
        return await self._execution_answer(asked, plan, obtained.execution)

    async def _know_to_execute(self, asked: Asked, credential: Credential, query_id: int) -> Definition:
        try:
            return await self.know(credential, query_id, asked.sender)
        except UpstreamRefused as refused:
            if refused.status_code != 403:
                raise
            # Refusals to execute have the shape of a job (CONTRACT 3); the question was for the query object.
            raise UpstreamRefused(403, Body.of(_NO_PERMISSION), "application/json") from None

    async def _stored_answer(self, asked: Asked, plan: Plan, found: Found) -> Answer:
        """Answer with a stored result; with a finished job where the caller asked for a run (it indexes `job`)."""
        if plan.forced and asked.wait is None:
            result_id = found[0].result_id
            job = await self.jobs.finished(plan, result_id, asked.caller.name, asked.sender)
            return Answer(body=Body.of(job.body()))
        ticket = self._ticket(asked, plan, found[0])
        return Answer(body=found[1], entry=found[0], waited=self._waited(asked), ticket=ticket)

    def _ticket(self, asked: Asked, plan: Plan, entry: Entry) -> Ticket | None:
        now = self.clock.monotonic()
        until = now + (plan.accepts(entry, now) or 0.0)
        if plan.definition is not None:
            scope = plan.credential.scope
            until = min(until, self.definitions.unquestioned_until(plan.definition, scope, self.settings.cache))
        return asked.ticket(plan.key, entry, plan.query_id, until, self.clock.wall(), now)

    async def _execution_answer(self, asked: Asked, plan: Plan, x: Execution) -> Answer:
        """Answer from an execution: its result, Redash's refusal, or a job of the caller's own."""
        if x.phase is Phase.ENDED and not x.upstream_job and x.failure is not None:
            raise x.failure
        inline = not x.upstream_job and plan.max_age != 0 and not plan.forced
        if x.found is not None and (inline or asked.wait is not None):
            asked.outcome.stored = True
            asked.outcome.age = x.found[0].age(self.clock.monotonic())
            return Answer(body=x.found[1], entry=x.found[0], waited=self._waited(asked))
        if x.arriving is not None and (inline or asked.wait is not None):
            return Answer(body=x.arriving[1], waited=self._waited(asked))
        return self._job_answer(asked, await self.jobs.new(x, asked.caller.name))

    def _job_answer(self, asked: Asked, view: JobView) -> Answer:
        pending = view.pending and asked.wait is not None
        return Answer(body=Body.of(view.body()), waited=self._waited(asked), retry_after=1.0 if pending else None)

    def _patience(self, wait: float) -> float:
        return 0.0 if self.draining else min(wait, self.settings.server.max_wait)

    def _waited(self, asked: Asked) -> int | None:
        return None if asked.wait is None else min(asked.wait, math.floor(self.settings.server.max_wait))

    # -- answer: GET with parameters -------------------------------------------------------------------------------

    async def _get_parameterised(self, asked: Asked, operation: ReadParameterised) -> Answer:
        """Answer with the result itself, never with a job: one URL for a spreadsheet, pandas or curl."""
        credential = self._credential(asked, operation)
        definition = await self.know(credential, operation.query_id, asked.sender)
        now = datetime.fromtimestamp(self.clock.wall(), UTC).astimezone(ZoneInfo(self.settings.cache.timezone))
        values = from_query_string(definition, list(operation.arguments), now)
        execute = Execute(operation.query_id, operation.max_age, values, None)
        plan = await self._decide(asked, execute, definition)
        if operation.form == "xlsx" and credential.is_query_key:
            raise NotAcceptable("A query key's answer cannot be made into XLSX; ask for csv, tsv or json.")
        shown = await self._result_for(asked, plan, operation.form)
        return await self.reading.rendered(asked, credential, shown, operation.form, definition)

    async def _result_for(self, asked: Asked, plan: Plan, form: ResultForm) -> Shown:
        if asked.request.method == "HEAD":
            return await self._result_without_running(asked, plan)
        obtained = await self.obtaining.obtain(plan, asked.sender, asked.outcome)
        patience = self._patience(self.settings.server.max_wait)

        def enough(early: Entry) -> bool:
            # A file's name has the day of the result; what is made from the JSON needs all of it.
            return form == "json" and early.retrieved_at != ""

        obtained = await self.obtaining.wait(obtained, patience, plan, asked.outcome, enough=enough)
        if obtained.found is not None:
            return obtained.found
        x = obtained.execution
        assert x is not None  # noqa: S101 - it is one or the other
        if x.found is not None:
            asked.outcome.stored = True
            return x.found
        if x.arriving is not None and enough(x.arriving[0]):
            return x.arriving
        if x.phase is not Phase.ENDED:
            raise Unavailable("The query is still running; ask again for the same URL.", retry_after=5)
        if x.failure is not None:
            raise x.failure
        raise QueryFailed(x.error)

    async def _result_without_running(self, asked: Asked, plan: Plan) -> Found:
        found = await self.results.find(plan.key)
        slack = plan.accepts(found[0], self.clock.monotonic()) if found is not None else None
        if found is None or slack is None or slack < 0:
            raise NotFound("Nothing stored answers this, and HEAD runs no query; GET does.")
        asked.outcome.hit(slack, found[0].age(self.clock.monotonic()), found[0].runtime)
        return found

    # -- answer: jobs ----------------------------------------------------------------------------------------------

    async def _read_job(self, asked: Asked, operation: ReadJob, allowed: frozenset[int] | None) -> Answer:
        patience = self._patience(asked.wait) if asked.wait is not None else 0.0
        view = await self.jobs.look_up(operation, asked.caller, allowed, patience)
        asked.outcome.execution_id, asked.outcome.query_id = view.execution_id, view.query_id or None
        return self._job_answer(asked, view)
