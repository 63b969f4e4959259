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
    ServiceUnavailable,
    TooManyRequests,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnusable,
)
from gateway.executions.board_entry import Entry, MadeEntry, failed, failure_of, pieces
from gateway.model import Clock, Response
from gateway.outcome import Observer, Outcome
from gateway.policy.configured import Live
from gateway.policy.context import RequestContext
from gateway.policy.values import local_time
from gateway.redash.matching import execution_of
from gateway.redash.requests import ReadBoard
from gateway.redash.widgets import Board, Widget
from gateway.results.parts import ResultParts

Respond = Callable[[RequestContext, bytes], Awaitable[Response]]
"""Responds to one request with that body, after all checks."""

MOST_AT_ONCE: Final = 8
"""So many widgets of one request are executed, or wait to be sent."""

AGAIN_SECONDS: Final = 0.1
"""A widget that is refused because its client runs so many queries already tries again after this time."""

LATE_SECONDS: Final = 0.2
"""Whoever reads slowly still gets what is stored: after the time is up, each widget may be looked up for so long."""

READING_SECONDS: Final = 300.0
"""But only until so long after the time is up: then nothing more is looked up, however slowly the response is read."""

_NOT_IN_TIME: Final = "This widget was not ready in the time for one request (server.max_wait); request it again."
_READ_SLOWLY: Final = "The response was read so slowly that this widget was not looked up any more; request it again."
_NO_TURN: Final = "The time for one request was up before its turn (max_executions of the client); request it again."
_NOT_KEPT: Final = "This result is larger than the gateway can keep now; request it by its query."
_RESTRICTED: Final = "The credential may not see the query of this widget."


class BoardResults:
    """Responds to requests for whole dashboards.

    A reader may take its time. So the rights in force are judged again before each look-up and run, and before each
    widget is handed out.
    """

    def __init__(self, live: Live, results: ResultParts, observer: Observer, clock: Clock) -> None:
        self._live = live
        self._dashboards = results.dashboards
        self._bindings = results.bindings
        self._definitions = results.definitions
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
        tasks: list[asyncio.Task[MadeEntry]] = []
        parts = self._lines(work, tasks) if operation.lines else self._document(work, tasks)
        body = Assembled(parts, lambda: _cancel(tasks))
        return Response(body=body, content_type=kind, cache_control="no-store")

    def _begin(self, work: _Work, tasks: list[asyncio.Task[MadeEntry]]) -> None:
        tasks += [asyncio.create_task(self._widget(work, widget)) for widget in work.board.widgets]

    async def _document(self, work: _Work, tasks: list[asyncio.Task[MadeEntry]]) -> AsyncIterator[Body]:
        """One JSON document, with the widgets in the order of the page."""
        yield Body.of(b'{"dashboard": ' + _head(work.board) + b', "widgets": [')
        self._begin(work, tasks)
        for number, task in enumerate(tasks):
            if number:
                yield Body.of(b", ")
            for part in self._handed_out(work, await task):
                yield part
            work.slots.release()
        yield Body.of(b"]}")

    async def _lines(self, work: _Work, tasks: list[asyncio.Task[MadeEntry]]) -> AsyncIterator[Body]:
        """A line for the dashboard, then one for each widget as soon as it is ready."""
        yield Body.of(b'{"dashboard": ' + _head(work.board) + b"}\n")
        self._begin(work, tasks)
        for ready in asyncio.as_completed(tasks):
            for part in self._handed_out(work, await ready):
                yield part
            yield Body.of(b"\n")
            work.slots.release()

    def _handed_out(self, work: _Work, made: MadeEntry) -> list[Body]:
        """Return the entry of a widget in pieces; without its response, if the client has lost a right meanwhile."""
        try:
            self._check_continues(work)
        except GatewayError as error:
            return pieces(failed(made.entry.bare(), error), None)
        return pieces(made.entry, made.body)

    def _check_continues(self, work: _Work) -> None:
        work.context.check_continues(self._live.configured, self._clock.wall())

    async def _widget(self, work: _Work, widget: Widget) -> MadeEntry:
        """Return the entry of a widget. The slot that it takes is given back when it is sent."""
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
            entry.error = failure_of(body)
            entry.cache, entry.age = outcome.cache, None if outcome.age is None else int(outcome.age)
        except UpstreamRefused as refused:
            entry.status, body, entry.error = refused.status_code, refused.body, refused.detail
            outcome.record_error(refused.reason, refused.refused)
        except GatewayError as error:
            failed(entry, error)
            outcome.record_error(error.reason, error.refused)
        except BaseException:  # the caller has left
            entry.status = 499
            raise
        finally:
            outcome.status, outcome.duration = entry.status, self._clock.monotonic() - outcome.started
            self._record(outcome)
        return MadeEntry(entry, body)

    async def _result(self, work: _Work, widget: Widget, outcome: Outcome) -> Body:
        """Return what Redash would respond to the request of a widget.

        Raises:
            GatewayError: what the caller would get instead.
        """
        if widget.query_id is None:
            raise Forbidden(_RESTRICTED)
        self._check_continues(work)
        left = work.context.outcome.started + work.context.patience - self._clock.monotonic()
        if left <= -READING_SECONDS:
            raise ServiceUnavailable(_READ_SLOWLY, retry_after=1)
        context = _of_query(work.context, widget.query_id, outcome, left)
        try:
            async with asyncio.timeout(max(left, LATE_SECONDS)):
                definition = await self._definitions.get(context.credential, widget.query_id, context.sender)
                values = work.board.values(widget, definition, work.operation.arguments, local_time(context))
                body = msgspec.json.encode({"max_age": work.operation.max_age, "parameters": values})
                response = await self._admitted(work, context, body)
                if not isinstance(response.body, Body | Events | Part):
                    await response.body.follow(math.inf)
                    response = await self._respond(work, context, body)  # it is stored by now
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
                return await self._respond(work, context, body)
            except BudgetSpent:  # nobody knows for how long
                raise
            except TooManyRequests:
                if self._clock.monotonic() + AGAIN_SECONDS >= parent.outcome.started + seconds:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)

    async def _respond(self, work: _Work, context: RequestContext, body: bytes) -> Response:
        self._check_continues(work)
        return await work.respond(context, body)


class _Work(msgspec.Struct, frozen=True):
    """One request for a dashboard."""

    context: RequestContext
    operation: ReadBoard
    board: Board
    slots: asyncio.Semaphore
    respond: Respond


def _cancel(tasks: list[asyncio.Task[MadeEntry]]) -> None:
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
