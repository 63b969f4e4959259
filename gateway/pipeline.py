"""THE WAY of one request: admit, parse, define, plan, look up, join, execute, store, respond, record.

The first step needs only the head of a request, the last one comes after the response was sent: `http.api` calls both
at the right time. How a step is done lives in the room of its subject.
"""

from __future__ import annotations

import asyncio

from gateway.body import Body
from gateway.errors import UpstreamTimeout
from gateway.executions.parts import ExecutionParts
from gateway.model import Request, Response
from gateway.outcome import Observer, Outcome
from gateway.policy.access import check_operation
from gateway.policy.admission import Admission
from gateway.policy.context import RequestContext
from gateway.policy.origins import check_cross_site
from gateway.policy.plan import plan_for
from gateway.policy.quotas import TokensNeeded
from gateway.redash.purges import Purge
from gateway.redash.readings import Reading
from gateway.redash.requests import (
    CancelJob,
    Execute,
    ExecuteText,
    Listen,
    Operation,
    Ping,
    ReadBoard,
    ReadJob,
    ReadLatest,
    ReadParameterised,
    ReadResult,
    Relay,
    Run,
    parse_operation,
)
from gateway.results.forms.making import check_form
from gateway.results.parts import ResultParts


class Pipeline:
    """The way of a request through the rooms."""

    def __init__(
        self,
        admission: Admission,
        results: ResultParts,
        executions: ExecutionParts,
        observer: Observer,
    ) -> None:
        self._admission = admission
        self._bindings = results.bindings
        self._definitions = results.definitions
        self._pauses = results.pauses
        self._reader = results.reader
        self._metadata = results.metadata
        self._lookup = executions.lookup
        self._responses = executions.responses
        self._boards = executions.boards
        self._live = executions.live
        self.record = observer.record_request  # record

    async def admit(self, request: Request, outcome: Outcome) -> RequestContext:
        """Find the client, and check what it may do; waits only if its rate is shared and must be asked for.

        Raises:
            GatewayError: the error that the caller gets instead.
        """
        try:
            return self._admission.admit(request, outcome)  # admit
        except TokensNeeded as needed:
            self._admission.settle(outcome, counted=await needed.bucket.fetch())
        return self._admission.admit(request, outcome)

    async def respond(self, context: RequestContext, body: bytes) -> Response:
        """Respond to an admitted request; its outcome is filled in on the way.

        Raises:
            GatewayError: the error that the caller gets instead.
        """
        try:
            async with asyncio.timeout(context.patience) as limit:
                return await self._respond(context, body)
        except TimeoutError:
            if not limit.expired():
                raise
            raise UpstreamTimeout("Redash did not answer within the time for one request (server.max_wait).") from None

    async def _respond(self, context: RequestContext, body: bytes) -> Response:
        accept = context.request.headers.get("Accept")
        operation = parse_operation(context.match, context.request.query_string, body, accept)  # parse
        if isinstance(operation, Reading):
            check_form(operation)
        check_operation(context.caller, operation)
        if isinstance(operation, Run | ReadBoard):
            origins = context.configured.settings.server.cors_origins
            check_cross_site(context.request, origins, context.outcome.token_sha256)
        allowed = await self._bindings.check(context, operation)
        if isinstance(operation, ReadBoard):
            return await self._boards.respond(context, operation, self._respond)
        if isinstance(operation, Run):
            response = await self._run(context, operation, allowed)
        else:
            response = await self._read(context, operation, allowed)
        if isinstance(operation, ReadLatest | ReadParameterised) and context.wait is not None:
            response = await self._live.hold(context, operation, response)
        return self._bindings.limit(context, response)

    async def _run(self, context: RequestContext, operation: Run, allowed: frozenset[int] | None) -> Response:
        """Respond with a result, or with the job that will produce it."""
        outcome = context.outcome
        if isinstance(operation, ReadParameterised) and operation.run:
            return await self._responses.go_on(context, operation, allowed)
        definition, run = await self._definitions.of(context, operation)  # define
        plan = await self._lookup.adapted(plan_for(context, operation, run, definition))  # plan
        await self._pauses.check(plan, context.sender)
        if context.request.method == "HEAD":  # runs nothing
            return await self._responses.head(context, operation, plan, await self._lookup.foresee(plan, outcome))
        self._lookup.on_asked(plan)
        found = await self._lookup.find(plan, outcome, context.until)  # look up
        result = await self._lookup.join_or_execute(found, plan, outcome, context.until)  # join, execute
        result = await self._lookup.wait(result, context, operation, plan)  # store: done by the execution
        return await self._responses.respond(context, operation, plan, result)  # respond

    async def _read(self, context: RequestContext, operation: Operation, allowed: frozenset[int] | None) -> Response:
        """Respond to a request that needs no run."""
        match operation:
            case ReadLatest():
                return await self._reader.latest(context, operation)
            case Listen():
                return await self._live.events(context, operation.read)
            case ReadResult():
                return await self._reader.by_id(context, operation, allowed)
            case ReadJob():
                return await self._responses.job(context, operation, allowed)
            case CancelJob():
                return await self._responses.cancel(context, operation, allowed)
            case Purge():
                return await self._responses.purge(context, operation, allowed)
            case Relay():
                return await self._metadata.respond(context, operation)
            case Ping():
                return Response(body=Body.of(b"PONG."), content_type="text/html; charset=utf-8")
            case Execute() | ExecuteText() | ReadParameterised() | ReadBoard():
                raise AssertionError("these take ways of their own")
