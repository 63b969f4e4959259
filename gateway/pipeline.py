"""THE WAY of one request: admit, parse, define, plan, look up, join, execute, store, respond, record.

`http.api` calls `admit`, `respond` and `record` in this order. How a step is done lives in the room of its subject.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from gateway.errors import NotAcceptable, UpstreamRefused
from gateway.executions.lookup import Enough, Pending, ResultLookup
from gateway.executions.responses import ExecutionResponses, large_enough
from gateway.model import Body, Definition, Request, Response
from gateway.outcome import Observer, Outcome
from gateway.policy.access import Credential, check_operation, check_raw_sql
from gateway.policy.admission import Admission
from gateway.policy.context import RequestContext
from gateway.policy.plan import Plan, decide
from gateway.redash.parameters import parse_parameters
from gateway.redash.requests import (
    CancelJob,
    Execute,
    ExecuteText,
    Operation,
    Ping,
    ReadJob,
    ReadLatest,
    ReadParameterised,
    ReadResult,
    Relay,
    ResultForm,
    parse_operation,
)
from gateway.results.bindings import Bindings
from gateway.results.cache import StoredResult
from gateway.results.definitions import Definitions
from gateway.results.metadata import Metadata
from gateway.results.reader import ResultReader

Run = Execute | ExecuteText | ReadParameterised

_NO_PERMISSION: Final = (
    b'{"job": {"status": 4, "error": "You do not have permission to run queries with this data source."}}'
)


class Pipeline:
    """The way of a request through the rooms."""

    def __init__(
        self,
        admission: Admission,
        bindings: Bindings,
        definitions: Definitions,
        lookup: ResultLookup,
        responses: ExecutionResponses,
        reader: ResultReader,
        metadata: Metadata,
        observer: Observer,
    ) -> None:
        self._admission = admission
        self._bindings = bindings
        self._definitions = definitions
        self._lookup = lookup
        self._responses = responses
        self._reader = reader
        self._metadata = metadata
        self._observer = observer

    def admit(self, request: Request, outcome: Outcome) -> RequestContext:
        """Say what is requested and by which client, from the head alone.

        Raises:
            GatewayError: there is no such route, or the client may not use it.
        """
        return self._admission.admit(request, outcome)  # admit

    async def respond(self, context: RequestContext, body: bytes) -> Response:
        """Respond to a request that was admitted; its outcome is filled in on the way.

        Raises:
            GatewayError: what the caller gets instead.
        """
        operation = parse_operation(context.match, context.request.query_string, body)  # parse
        check_operation(context.caller, operation)
        allowed = await self._bindings.check(context, operation)
        if isinstance(operation, Run):
            response = await self._run(context, operation)
        else:
            response = await self._read(context, operation, allowed)
        if response.reuse is not None and allowed is not None:
            until = min(response.reuse.good_until, self._bindings.good_until(context))
            response.reuse = msgspec.structs.replace(response.reuse, good_until=until)
        return response

    async def _run(self, context: RequestContext, operation: Run) -> Response:
        """Respond with a result, run if need be."""
        definition = await self._define(context, operation)  # define
        plan = self._plan(context, operation, definition)  # plan
        if isinstance(operation, ReadParameterised):
            return await self._result_itself(context, plan, operation.form)
        found = await self.result(plan, context.outcome, context.wait)
        return await self._responses.post(context, plan, found)  # respond

    async def _result_itself(self, context: RequestContext, plan: Plan, form: ResultForm) -> Response:
        if context.request.method == "HEAD":
            found: StoredResult | Pending = await self._lookup.stored(plan, context.outcome)
        else:
            wait, enough = context.configured.settings.server.max_wait, partial(large_enough, form)
            found = await self.result(plan, context.outcome, wait, enough=enough)
        return await self._responses.result_itself(context, plan, found, form)  # respond

    async def result(
        self, plan: Plan, outcome: Outcome, wait: float | None, *, enough: Enough = lambda early: True
    ) -> StoredResult | Pending:
        """Return what the plan accepts, or the execution that will bring it, after at most `wait` seconds for its end.

        Raises:
            TooManyRequests: the client has as many executions running as it may.
        """
        found = await self._lookup.find(plan, outcome)  # look up
        if isinstance(found, StoredResult):
            return found
        if found.joinable is not None:
            result = await self._lookup.join(found, found.joinable, plan, outcome)  # join
        else:
            result = await self._lookup.execute(found, plan, outcome)  # execute
        if isinstance(result, StoredResult) or wait is None:
            return result
        return await self._lookup.wait(result, wait, plan, outcome, enough=enough)  # store: the execution does

    def record(self, outcome: Outcome) -> None:
        """Record what became of the request: its response has left, or its caller has."""
        self._observer.record_request(outcome)  # record

    # -- define, plan

    async def _define(self, context: RequestContext, operation: Run) -> Definition | None:
        """Return the query's definition, at most as old as the configuration allows; None for free SQL."""
        if isinstance(operation, ExecuteText):
            return None
        try:
            return await self._definitions.get(_credential(context), operation.query_id, context.sender)
        except UpstreamRefused as refused:
            if refused.status_code != 403 or isinstance(operation, ReadParameterised):
                raise
            # Refusals to execute have the shape of a job (CONTRACT 3); this request was for the query object.
            raise UpstreamRefused(403, Body.of(_NO_PERMISSION), "application/json") from None

    def _plan(self, context: RequestContext, operation: Run, definition: Definition | None) -> Plan:
        credential, cache = _credential(context), context.configured.settings.cache
        if isinstance(operation, ReadParameterised):
            assert definition is not None  # noqa: S101 - only free SQL has none
            if operation.form == "xlsx" and credential.is_query_key:
                raise NotAcceptable("A query key's answer cannot be made into XLSX; ask for csv, tsv or json.")
            now = datetime.fromtimestamp(context.wall, UTC).astimezone(ZoneInfo(cache.timezone))
            values = parse_parameters(definition, list(operation.arguments), now)
            operation = Execute(operation.query_id, operation.max_age, values, None)
        if definition is not None:
            check_raw_sql(context.caller, operation, definition)
        return decide(operation, context.caller, credential, definition, cache)

    # -- what is answered without a run

    async def _read(self, context: RequestContext, operation: Operation, allowed: frozenset[int] | None) -> Response:
        match operation:
            case ReadLatest():
                return await self._reader.latest(context, _credential(context), operation)
            case ReadResult():
                return await self._reader.by_id(context, operation, allowed)
            case ReadJob():
                return await self._responses.job(context, operation, allowed)
            case CancelJob():
                return await self._responses.cancel(context, operation, allowed)
            case Relay():
                clean = context.configured.access.without_tokens(operation.arguments)
                operation = msgspec.structs.replace(operation, arguments=clean)
                return await self._metadata.respond(context, _credential(context), operation)
            case Ping():
                return Response(body=Body.of(b"PONG."), content_type="text/html; charset=utf-8")
            case Execute() | ExecuteText() | ReadParameterised():
                raise AssertionError("runs take the way of `_run`")


def _credential(context: RequestContext) -> Credential:
    return context.configured.access.credential(context.caller, context.match)
