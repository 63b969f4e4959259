"""THE WAY of one request: admit, read, know, decide, look, join, execute, keep, answer. README tells it in this order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from typing import Final

import msgspec

from gateway import config
from gateway.access import Access, Caller, Credential, check_capability, check_raw_sql
from gateway.definitions import Definitions
from gateway.errors import Forbidden, NotAcceptable, NotFound, UpstreamError, UpstreamRefused
from gateway.execution import Execution, Phase
from gateway.executions import Executions
from gateway.metadata import Metadata
from gateway.model import FIRST_GATEWAY_RESULT_ID, Answer, Body, Clock, Definition, Entry, Request
from gateway.outcome import Outcome, Sender
from gateway.policy import Plan, decide, result_key
from gateway.redash.answers import job_body
from gateway.redash.files import CONTENT_TYPES, content_disposition
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
    read,
)
from gateway.redash.routes import Match, match
from gateway.results import Found, Results, rendering_expired
from gateway.store import Ledger, Store

IMMUTABLE: Final = "private, max-age=31557600"
"""Redash's own Cache-Control for results by id (CONTRACT 4)."""

_WAIT: Final = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[;,]|$)")


class Asked(msgspec.Struct, frozen=True):
    """One admitted request with its meaning."""

    request: Request
    caller: Caller
    match: Match
    sender: Sender
    outcome: Outcome


class Gateway:
    """All parts of one configuration, and the way of a request through them."""

    def __init__(
        self,
        settings: config.Config,
        *,
        access: Access,
        store: Store,
        ledger: Ledger,
        definitions: Definitions,
        results: Results,
        executions: Executions,
        metadata: Metadata,
        clock: Clock,
        slug: str,
    ) -> None:
        self.settings = settings
        self.access = access
        self.store = store
        self.ledger = ledger
        self.definitions = definitions
        self.results = results
        self.executions = executions
        self.metadata = metadata
        self.clock = clock
        self.slug = slug

    async def answer(self, request: Request, outcome: Outcome, traceparent: str | None) -> Answer:
        """Answer one request; `outcome` is filled in along the way.

        Raises:
            GatewayError: whatever the caller must be told instead.
        """
        outcome.method = request.method
        found = match(request.method, request.path, self.slug)
        outcome.route = found.route.template
        if found.route.kind == "ping":
            return Answer(body=Body.of(b"PONG."), content_type="text/html; charset=utf-8")
        caller = self.access.admit(request.headers, request.query_string, self.clock.wall())
        outcome.client = caller.name
        operation = read(found, request.query_string, request.body)
        check_capability(caller, found, operation)
        outcome.query_id = found.number("query_id")
        sender = Sender(caller.name, outcome.request_id, traceparent)
        return await self._dispatch(Asked(request, caller, found, sender, outcome), operation)

    async def _dispatch(self, asked: Asked, operation: Operation) -> Answer:
        match operation:
            case Execute() | ExecuteText():
                return await self._execute(asked, operation)
            case ReadLatest():
                return await self._read_latest(asked, operation)
            case ReadResult():
                return await self._read_result(asked, operation)
            case ReadJob():
                return await self._read_job(asked, operation)
            case CancelJob():
                await self.executions.cancel(operation.job_id, asked.caller, asked.sender)
                return Answer(body=Body.of(b"null"))
            case Relay():
                credential = self._credential(asked, operation)
                return await self.metadata.relay(
                    asked.caller, credential, asked.match, operation, asked.sender, asked.outcome
                )
            case ReadParameterised() | Ping():
                raise NotFound("This is no route of the Redash API that the gateway serves.")

    def _credential(self, asked: Asked, operation: Operation) -> Credential:
        return self.access.credential(asked.caller, asked.match, operation)

    async def _know(self, asked: Asked, credential: Credential, query_id: int) -> Definition:
        return await self.definitions.know(credential, query_id, asked.sender, self.settings.cache)

    # -- executions ------------------------------------------------------------------------------------------------

    async def _execute(self, asked: Asked, operation: Execute | ExecuteText) -> Answer:
        credential = self._credential(asked, operation)
        definition = None
        if isinstance(operation, Execute):
            definition = await self._know_to_execute(asked, credential, operation.query_id)
            check_raw_sql(asked.caller, operation, definition)
        plan = decide(operation, asked.caller, credential, definition, self.settings.cache)
        return await self._carry_out(asked, plan)

    async def _know_to_execute(self, asked: Asked, credential: Credential, query_id: int) -> Definition:
        try:
            return await self._know(asked, credential, query_id)
        except UpstreamRefused as refused:
            if refused.status_code != 403:
                raise
            text = (
                b'{"job": {"status": 4, "error": "You do not have permission to run queries with this data source."}}'
            )
            raise UpstreamRefused(403, Body.of(text), "application/json") from None  # its shape here (CONTRACT 3)

    async def _carry_out(self, asked: Asked, plan: Plan) -> Answer:
        """Look, else join, else execute."""
        while True:
            found = await self.results.find(plan.key)
            slack = plan.accepts(found[0], self.clock.monotonic()) if found is not None else None
            if found is not None and slack is not None:
                if slack >= 0:
                    return await self._hit(asked, plan, found, slack)
                if -slack <= plan.bounds.stale_while_revalidate:
                    return await self._stale(asked, plan, found, slack)
            stored = found is not None and slack is not None
            if (failed := self.executions.failed(plan)) is not None:
                return await self._of_execution(asked, plan, failed, joined=True)
            x = self.executions.find(plan, stored=stored)
            if x is None and not (plan.max_age is None and stored) and (other := self.executions.blocking(plan)):
                await other.posted.wait()
                continue
            joined = x is not None
            if x is None:
                x = self.executions.begin(plan, asked.sender, aside=plan.max_age is None and stored)
            else:
                x.callers += 1
            asked.outcome.went(_forward(plan, stored=stored), joined=joined)
            await x.answerable.wait()
            if isinstance(x.failure, UpstreamError) and found is not None and self._may_be_stale(plan, slack):
                asked.outcome.stale(slack or 0.0, *self._age(found[0]), "stale-if-error")
                return await self._shown(asked, plan, found)
            return await self._of_execution(asked, plan, x, joined=joined)

    def _may_be_stale(self, plan: Plan, slack: float | None) -> bool:
        return slack is not None and plan.max_age != 0 and -slack <= plan.bounds.stale_if_error

    def _age(self, entry: Entry) -> tuple[float, float]:
        return entry.age(self.clock.monotonic()), entry.runtime

    async def _hit(self, asked: Asked, plan: Plan, found: Found, slack: float) -> Answer:
        asked.outcome.hit(slack, *self._age(found[0]))
        return await self._shown(asked, plan, found)

    async def _stale(self, asked: Asked, plan: Plan, found: Found, slack: float) -> Answer:
        """Show what is stored and ask Redash behind the answer."""
        aside = plan.max_age is None
        if self.executions.find(plan, stored=True) is None and self.executions.blocking(plan) is None:
            self.executions.begin(plan, asked.sender, aside=aside)
        asked.outcome.stale(slack, *self._age(found[0]), "stale-while-revalidate")
        return await self._shown(asked, plan, found)

    async def _shown(self, asked: Asked, plan: Plan, found: Found) -> Answer:
        """Answer with a stored result; with a finished job where the caller asked for a run (it indexes `job`)."""
        if plan.forced:
            result_id = found[0].result_id
            job_id = await self.executions.finished_job(plan, result_id, asked.caller.name, asked.sender)
            return Answer(body=Body.of(job_body(job_id, 3, result_id=result_id)))
        return Answer(body=found[1])

    async def _of_execution(self, asked: Asked, plan: Plan, x: Execution, *, joined: bool) -> Answer:
        """Answer from an execution that can be answered from: inline result, refusal, or a job of the caller's own."""
        asked.outcome.execution_id = x.id
        waited = await self._wait(asked, x)
        if x.phase is Phase.ENDED and x.upstream_job == "":
            if x.failure is not None:
                raise x.failure
            if x.found is not None and plan.max_age != 0 and not plan.forced:
                return self._inline(asked, x, waited)
        if waited is not None and x.found is not None:
            return self._inline(asked, x, waited)
        job_id = await self.executions.new_job(x, asked.caller.name)
        view, _ = await self.executions.look_up(job_id, asked.caller)
        body = job_body(job_id, view.status, error=view.error, result_id=view.result_id)
        pending = waited is not None and view.status in (1, 2)
        return Answer(body=Body.of(body), waited=waited, retry_after=1.0 if pending else None)

    def _inline(self, asked: Asked, x: Execution, waited: int | None) -> Answer:
        assert x.found is not None  # noqa: S101 - the callers have looked
        asked.outcome.stored = True
        asked.outcome.age = x.found[0].age(self.clock.monotonic())
        return Answer(body=x.found[1], waited=waited)

    async def _wait(self, asked: Asked, x: Execution) -> int | None:
        """Honour `Prefer: wait=N` (RFC 7240); returns the N that was honoured, None without one."""
        preferred = _WAIT.search(asked.request.headers.get("Prefer", ""))
        if preferred is None:
            return None
        seconds = min(int(preferred[1]), math.floor(self.settings.server.max_wait))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await x.ended.wait()
        return seconds

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def _read_job(self, asked: Asked, operation: ReadJob) -> Answer:
        view, x = await self.executions.look_up(operation.job_id, asked.caller)
        waited = None
        if x is not None and view.status in (1, 2):
            waited = await self._wait(asked, x)
            view, _ = await self.executions.look_up(operation.job_id, asked.caller)
        asked.outcome.execution_id, asked.outcome.query_id = view.execution_id, view.query_id or None
        body = job_body(operation.job_id, view.status, error=view.error, result_id=view.result_id)
        pending = waited is not None and view.status in (1, 2)
        return Answer(body=Body.of(body), waited=waited, retry_after=1.0 if pending else None)

    # -- results ---------------------------------------------------------------------------------------------------

    async def _read_latest(self, asked: Asked, operation: ReadLatest) -> Answer:
        credential = self._credential(asked, operation)
        definition = await self._know(asked, credential, operation.query_id)
        result_id = definition.latest_result_id
        if result_id is not None:
            found = await self._stored(credential, result_id, operation.form)
            if found is not None and self._shows_latest(credential, definition, found[0]):
                self._note_hit(asked, found[0])
                return self._result(asked, found, operation.form, definition.name, "private, no-cache")
        if operation.form == "json" or result_id is None:
            return await self._ask_latest(asked, credential, definition, operation.form)
        return await self._fetched(asked, credential, result_id, operation.form, operation.query_id, definition.name)

    def _shows_latest(self, credential: Credential, definition: Definition, entry: Entry) -> bool:
        """Redash shows a query key its latest result only while the hashes match (CONTRACT 8)."""
        return not credential.is_query_key or entry.form != "full" or entry.query_hash == definition.query_hash

    async def _ask_latest(
        self, asked: Asked, credential: Credential, definition: Definition, form: ResultForm
    ) -> Answer:
        asked.outcome.went("uri-miss")
        found, joined = await self.results.latest(credential, definition.query_id, definition.marker, asked.sender)
        asked.outcome.went("uri-miss", joined=joined, stored=True)
        asked.outcome.age = found[0].age(self.clock.monotonic())
        if form != "json":
            return await self._fetched(
                asked, credential, found[0].result_id, form, definition.query_id, definition.name
            )
        return self._result(asked, found, form, definition.name, "private, no-cache")

    async def _read_result(self, asked: Asked, operation: ReadResult) -> Answer:
        credential, query_id = await self._whose_result(asked, operation)
        name = str(operation.result_id)
        if query_id is not None:
            definition = await self._know(asked, credential, query_id)
            name = definition.name if operation.query_id is not None else name
        found = await self._stored(credential, operation.result_id, operation.form)
        now = self.clock.monotonic()
        checked = query_id is not None or (
            found is not None and now - found[0].confirmed <= self.settings.cache.definition_check
        )
        if found is not None and checked:
            self._note_hit(asked, found[0])
            return self._result(asked, found, operation.form, name, IMMUTABLE)
        return await self._fetched(asked, credential, operation.result_id, operation.form, operation.query_id, name)

    async def _whose_result(self, asked: Asked, operation: ReadResult) -> tuple[Credential, int | None]:
        """Find out which credential's scope the id belongs to, and for which query it was seen there.

        Raises:
            NotFound: an id that this client may not know of.
        """
        scopes = self.access.scopes(asked.caller)
        credential = None
        with contextlib.suppress(Forbidden):
            credential = self._credential(asked, operation)
        preferred = [credential.scope] if credential is not None else []
        for scope in [*preferred, *sorted(scopes.difference(preferred))]:
            seen = await self.ledger.queries_of_result(scope, operation.result_id)
            owner = self.access.of_scope(scope)
            if seen and owner is not None and (operation.query_id is None or operation.query_id in seen):
                query_id = operation.query_id or min(seen)
                return owner, query_id or None
        if credential is None or operation.result_id >= FIRST_GATEWAY_RESULT_ID or asked.caller.is_bound:
            raise NotFound("This client knows of no such result.")
        return credential, operation.query_id

    async def _stored(self, credential: Credential, result_id: int, form: ResultForm) -> Found | None:
        found = await self.results.find(result_key(credential.scope, result_id, form))
        if found is not None and form != "json":
            expired = rendering_expired(found[0], self.clock.monotonic(), self.settings.cache)
            return None if expired else found
        return found

    async def _fetched(
        self,
        asked: Asked,
        credential: Credential,
        result_id: int,
        form: ResultForm,
        query_id: int | None,
        name: str,
    ) -> Answer:
        if form == "xlsx" and result_id >= FIRST_GATEWAY_RESULT_ID:
            raise NotAcceptable("A query key's answer cannot be made into XLSX here; ask for csv, tsv or json.")
        asked.outcome.went("uri-miss")
        found, joined, stored = await self.results.by_id(credential, result_id, form, query_id, asked.sender)
        asked.outcome.went("uri-miss", joined=joined, stored=stored)
        return self._result(asked, found, form, name, IMMUTABLE)

    def _note_hit(self, asked: Asked, entry: Entry) -> None:
        age, runtime = self._age(entry)
        asked.outcome.hit(math.inf, age, runtime)
        asked.outcome.ttl = None  # a result by id has no end

    def _result(self, asked: Asked, found: Found, form: ResultForm, name: str, cache_control: str) -> Answer:
        entry, body = found
        return Answer(
            body=body,
            content_type=CONTENT_TYPES[form],
            disposition=content_disposition(name, entry.retrieved_at, form),
            cache_control=cache_control,
            etag=entry.body_id.hex()[:16],
        )


def _forward(plan: Plan, *, stored: bool) -> str:
    if plan.max_age == 0:
        return "request"
    return "stale" if stored else "uri-miss"
