"""All widgets of a dashboard in one response: each as if its caller had requested it, several at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from gateway.body import Body, Events, Part
from gateway.concurrency.assembled import Assembled
from gateway.errors import (
    BudgetSpent,
    Forbidden,
    GatewayError,
    TooManyRequests,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnusable,
)
from gateway.model import Clock, Response
from gateway.outcome import Observer, Outcome
from gateway.policy.context import RequestContext
from gateway.policy.values import local_time
from gateway.redash.matching import execution_of
from gateway.redash.requests import ReadBoard
from gateway.redash.widgets import Board, Widget
from gateway.results.bindings import Bindings
from gateway.results.dashboards import Dashboards
from gateway.results.definitions import Definitions

Respond = Callable[[RequestContext, bytes], Awaitable[Response]]
"""Responds to one request with that body, after all checks."""

MOST_AT_ONCE: Final = 8
"""So many widgets of one request are executed, or wait to be sent."""

_FAILED: Final = 4
"""Redash's status of a job."""

AGAIN_SECONDS: Final = 0.1
"""A widget that is refused because its client runs so many queries already tries again after this time."""

LATE_SECONDS: Final = 0.2
"""Whoever reads slowly still gets what is stored: after the time is up, each widget may be looked up for so long."""

_NOT_IN_TIME: Final = "This widget was not ready in the time for one request (server.max_wait); request it again."
_NO_TURN: Final = "The time for one request was up before its turn (max_executions of the client); request it again."
_NOT_KEPT: Final = "This result is larger than the gateway can keep now; request it by its query."
_RESTRICTED: Final = "The credential may not see the query of this widget."


class Entry(msgspec.Struct, omit_defaults=True):
    """What the response says of a widget, before the response that Redash would give to its request."""

    id: int
    query_id: int | None
    visualization_id: int | None
    status: int
    cache: str = ""
    age: int | None = None
    error: str = ""
    retry_after: int | None = None


class BoardResults:
    """Responds to requests for whole dashboards."""

    def __init__(
        self, dashboards: Dashboards, bindings: Bindings, definitions: Definitions, observer: Observer, clock: Clock
    ) -> None:
        self._dashboards = dashboards
        self._bindings = bindings
        self._definitions = definitions
        self._record = observer.record_request
        self._clock = clock

    async def respond(self, context: RequestContext, operation: ReadBoard, respond: Respond) -> Response:
        """Respond with the results of all widgets, or with their jobs; what fails is an entry with its error.

        Raises:
            UpstreamRefused: Redash does not show the dashboard to the client's credential.
            Forbidden: it is not among the client's.
            BadRequest: it has no such parameter.
        """
        board = await self._dashboards.board(context.credential, operation.dashboard, context.sender)
        self._bindings.check_dashboard(context, board.id)
        board.check_arguments(operation.arguments)
        kind = "application/x-ndjson" if operation.lines else "application/json"
        if context.request.method == "HEAD":  # runs nothing
            return Response(body=Body.of(b""), content_type=kind, unsized=True)
        most = min(MOST_AT_ONCE, context.caller.settings.max_executions or math.inf)
        work = _Work(context, operation, board, asyncio.Semaphore(int(most)), respond)
        tasks: list[asyncio.Task[list[Body]]] = []
        parts = self._lines(work, tasks) if operation.lines else self._document(work, tasks)
        body = Assembled(parts, lambda: _cancel(tasks))
        return Response(body=body, content_type=kind, cache_control="no-store")

    def _begin(self, work: _Work, tasks: list[asyncio.Task[list[Body]]]) -> None:
        tasks += [asyncio.create_task(self._widget(work, widget)) for widget in work.board.widgets]

    async def _document(self, work: _Work, tasks: list[asyncio.Task[list[Body]]]) -> AsyncIterator[Body]:
        """One JSON document, with the widgets in the order of the page."""
        yield Body.of(b'{"dashboard": ' + _head(work.board) + b', "widgets": [')
        self._begin(work, tasks)
        for number, task in enumerate(tasks):
            if number:
                yield Body.of(b", ")
            for part in await task:
                yield part
            work.slots.release()
        yield Body.of(b"]}")

    async def _lines(self, work: _Work, tasks: list[asyncio.Task[list[Body]]]) -> AsyncIterator[Body]:
        """A line for the dashboard, then one for each widget as soon as it is ready."""
        yield Body.of(b'{"dashboard": ' + _head(work.board) + b"}\n")
        self._begin(work, tasks)
        for ready in asyncio.as_completed(tasks):
            for part in await ready:
                yield part
            yield Body.of(b"\n")
            work.slots.release()

    async def _widget(self, work: _Work, widget: Widget) -> list[Body]:
        """Return the entry of a widget in pieces. The slot that it takes is given back when they are sent."""
        await work.slots.acquire()
        parent = work.context.outcome
        outcome = Outcome(
            request_id=parent.request_id,
            address=parent.address,
            method=parent.method,
            route=parent.route,
            client=parent.client,
            token_sha256=parent.token_sha256,
            query_id=widget.query_id,
            trace=parent.trace,
            started=self._clock.monotonic(),
        )
        entry = Entry(widget.id, widget.query_id, widget.visualization_id, 200)
        body: Body | None = None
        try:
            body = await self._result(work, widget, outcome)
            entry.error = _failure(body)
            entry.cache, entry.age = outcome.cache, _whole(outcome.age)
        except UpstreamRefused as refused:
            entry.status, body, entry.error = refused.status_code, refused.body, refused.detail
            outcome.record_error(refused.reason, refused.refused)
        except GatewayError as error:
            entry.status, entry.error, entry.retry_after = error.status, error.detail, _seconds(error.retry_after)
            outcome.record_error(error.reason, error.refused)
        except BaseException:  # the caller has left
            entry.status = 499
            raise
        finally:
            outcome.status, outcome.duration = entry.status, self._clock.monotonic() - outcome.started
            self._record(outcome)
        return _pieces(entry, body)

    async def _result(self, work: _Work, widget: Widget, outcome: Outcome) -> Body:
        """Return what Redash would respond to the request of a widget.

        Raises:
            GatewayError: what the caller would get instead.
        """
        if widget.query_id is None:
            raise Forbidden(_RESTRICTED)
        left = work.context.outcome.started + work.context.patience - self._clock.monotonic()
        context = _of_query(work.context, widget.query_id, outcome, left)
        try:
            async with asyncio.timeout(max(left, LATE_SECONDS)):
                definition = await self._definitions.get(context.credential, widget.query_id, context.sender)
                values = work.board.values(widget, definition, work.operation.arguments, local_time(context))
                body = msgspec.json.encode({"max_age": work.operation.max_age, "parameters": values})
                response = await self._admitted(work, context, body)
                if not isinstance(response.body, Body | Events | Part):
                    await response.body.follow(math.inf)
                    response = await work.respond(context, body)  # it is stored by now
        except TimeoutError:
            raise _too_late(context, left) from None
        if response.unsized:
            raise _too_late(context, left)
        if not isinstance(response.body, Body) or not response.body.is_kept:
            raise UpstreamUnusable(_NOT_KEPT)
        return response.body

    async def _admitted(self, work: _Work, context: RequestContext, body: bytes) -> Response:
        """Respond to a request, once the client's limit of executions allows it.

        Raises:
            TooManyRequests: it does not in the time for which the caller waits.
        """
        parent = work.context
        seconds = (parent.wait or 0) if parent.request.method == "POST" else parent.patience
        while True:
            try:
                return await work.respond(context, body)
            except BudgetSpent:  # nobody knows for how long
                raise
            except TooManyRequests:
                if self._clock.monotonic() + AGAIN_SECONDS >= parent.outcome.started + seconds:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)


class _Work(msgspec.Struct, frozen=True):
    """One request for a dashboard."""

    context: RequestContext
    operation: ReadBoard
    board: Board
    slots: asyncio.Semaphore
    respond: Respond


def _cancel(tasks: list[asyncio.Task[list[Body]]]) -> None:
    """Let go of what the caller does not wait for any more. Executions go on for their other callers."""
    for task in tasks:
        task.cancel()


def _of_query(context: RequestContext, query_id: int, outcome: Outcome, left: float) -> RequestContext:
    """Return the request that the caller would send for one query, with so many seconds left; without any, it only asks
    for what needs no run.

    Raises:
        Forbidden: the client may not send it.
    """
    found = execution_of(query_id)
    chosen = context.configured.access.grant(context.caller, found)
    request, wait = context.request, context.wait
    if request.method != "POST":
        wait = int(max(0.0, min(left, context.configured.settings.server.max_wait)))
    if left <= 0:
        request = msgspec.structs.replace(request, method="HEAD")
    return msgspec.structs.replace(context, request=request, match=found, outcome=outcome, chosen=chosen, wait=wait)


def _too_late(context: RequestContext, left: float) -> GatewayError:
    """Return the error of a widget that was not ready. It is not Redash's where the client's own limit made it wait."""
    most = context.caller.settings.max_executions
    if left <= 0 and most is not None and most < MOST_AT_ONCE:
        return TooManyRequests(_NO_TURN, retry_after=1)
    return UpstreamTimeout(_NOT_IN_TIME)


def _head(board: Board) -> bytes:
    return msgspec.json.encode({"id": board.id, "name": board.name, "slug": board.slug})


def _failure(body: Body) -> str:
    """Return why a query failed, "" if it did not: its job says so."""
    if body.data is None or not body.data.startswith(b'{"job":'):
        return ""
    job = msgspec.json.decode(body.data)["job"]
    return str(job["error"]) if job["status"] == _FAILED else ""


def _seconds(delay: float | None) -> int | None:
    return None if delay is None else math.ceil(delay)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _pieces(entry: Entry, body: Body | None) -> list[Body]:
    """Return the entry, with Redash's response as its last member."""
    head = msgspec.json.encode(entry)
    if body is None:
        return [Body.of(head)]
    return [Body.of(head[:-1] + b', "response": '), body, Body.of(b"}")]
