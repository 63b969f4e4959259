"""The API listener: HTTP requests into `Request`, `Answer` and errors into HTTP. aiohttp's server ends here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable

from aiohttp import HttpVersion11, hdrs, web

from gateway.errors import GatewayError, MethodNotAllowed, Unauthorized, UpstreamRefused
from gateway.http.connection import Handler, Server, fast_path_is_possible, problem
from gateway.http.fast_path import FastPath
from gateway.http.head import fixed_part, last_part, moving_part
from gateway.http.request import accepts_gzip, check_head, has_already, meaning_of, read_body, read_head, request_id
from gateway.http.response_cache import Known, Meaning, ResponseCache
from gateway.http.sending import CLOSED, KEPT, send
from gateway.model import Body, Clock, Response
from gateway.outcome import Observer, Outcome
from gateway.pipeline import Gateway
from gateway.policy.access import Access
from gateway.store.compression import Compressor
from gateway.telemetry.tracing import incoming

log = logging.getLogger("gateway.web")


class Api:
    """Answers every request of the API listener."""

    def __init__(
        self,
        gateway: Callable[[], Gateway],
        *,
        observer: Observer,
        clock: Clock,
        answers: ResponseCache,
        lane: FastPath,
        compressor: Compressor,
    ) -> None:
        self._gateway = gateway
        self._observer = observer
        self._clock = clock
        self._answers = answers
        self._compressor = compressor
        self._lane = lane if fast_path_is_possible() else None
        self._draining = False
        self._server: Server | None = None
        self._open: dict[asyncio.Task[None], Outcome] = {}

    def server(self) -> Server:
        """Return the server that a socket is given to."""
        if self._lane is None:
            log.warning("the hit lane is off; every request takes the ordinary way")
        self._server = Server(self.handle, self._refused, self._lane)
        return self._server

    def _refused(self, status: int) -> None:
        """Tell of a request that was no HTTP, or more of it than is read, or came in part."""
        reason = {414: "uri_too_long", 431: "headers_too_large", 499: ""}.get(status, "bad_request")
        now = self._clock.monotonic()
        self._observer.record_request(Outcome(request_id="-", status=status, reason=reason, started=now))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and tell its outcome once: when the answer has left, or its caller has."""
        outcome = Outcome(request_id=request_id(request), started=self._clock.monotonic(), status=499)
        outcome.trace = self._observer.begin_span(incoming(request.headers))
        task = request.task  # the connection's, which has one request at a time
        self._open[task] = outcome
        known: Known | None = None
        try:
            generation = self._answers.generation
            gateway = self._gateway()
            found, meaning = await self._find(request, outcome, gateway)
            if isinstance(found, Known):
                known = found
                await send(request, known.head + last_part(outcome.request_id, outcome.quota), known.body)
                self._learn(request, known)
                return KEPT if request.keep_alive else CLOSED
            fixed = await self._give(request, found, outcome, gateway)
            ticket, body = found.ticket, found.body
            # While it was judged and sent, a reload, a run or an edit may have made another answer of it.
            current = self._answers.generation == generation and not found.closes
            if current and ticket is not None and isinstance(body, Body):
                body = Body.of(b"") if request.method == hdrs.METH_HEAD else body
                meter = gateway.quotas.of(outcome.client)
                self._learn(request, self._answers.register(meaning, ticket, fixed, body, outcome, meter))
            return KEPT if request.keep_alive and not found.closes else CLOSED
        except GatewayError as error:  # of an answer that was passed on while it arrived
            outcome.status, outcome.reason = error.status, error.reason
            raise ConnectionAbortedError("the answer broke off") from error
        except BaseException:  # the caller has left, or was made to
            if known is not None:
                known.repeat(outcome)
            outcome.status, known = 499, None
            raise
        finally:
            del self._open[task], task  # it refers to the error, whose traceback to this frame and what was sent
            self._tell(outcome, known)

    def _tell(self, outcome: Outcome, known: Known | None) -> None:
        if known is not None and outcome.trace is None:
            self._answers.record_later(known, outcome.request_id, outcome.started)
            return
        outcome.duration = self._clock.monotonic() - outcome.started
        if known is not None:
            known.repeat(outcome)
            outcome.sent_bytes = known.body.size
        self._observer.record_request(outcome)

    async def _find(
        self, request: web.BaseRequest, outcome: Outcome, gateway: Gateway
    ) -> tuple[Response | Known, Meaning]:
        """Return the answer, or the known one that is as good; and what the request means, where it came so far."""
        try:
            server = gateway.settings.server
            check_head(request, server.hosts)
            if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
                return Response(status=204, body=Body.of(b""), content_type=""), ()
            body = await read_body(request, server.max_request_body)
            read = read_head(request, body)
            match, caller = gateway.admit(read, outcome)
            meaning = meaning_of(request, body, outcome.token_sha256)
            if not self._draining and (known := self._answers.recall(meaning)) is not None:
                return known, meaning
            response = await gateway.respond(read, match, caller, outcome)
            if not isinstance(response.body, Body):
                # Nobody knows the whole of a body that is ended by its connection (HTTP/1.0) from a part of it.
                framed = response.body.size is not None or request.version >= HttpVersion11
                await response.body.follow(0 if framed else math.inf)
            return await self._encoded(request, response), meaning
        except UpstreamRefused as refused:
            outcome.reason = refused.reason
            return Response(status=refused.status_code, body=refused.body, content_type=refused.content_type), ()
        except GatewayError as error:
            return self._error(error, outcome), ()
        except Exception:
            log.exception("internal error, request %s", outcome.request_id)
            return self._error(GatewayError("Internal error of the gateway; its log says more."), outcome), ()

    async def _encoded(self, request: web.BaseRequest, response: Response) -> Response:
        """Take the gzip form, if the caller can read it; leave the body out, if the caller has it already."""
        if accepts_gzip(request):
            form = response.gzip
            if form is None and response.entry is not None and isinstance(response.body, Body):
                form = await self._compressor.gzip(response.entry, response.body)
            if form is not None:
                response.body, response.encoding = form, "gzip"
        if has_already(request, response.tag):
            response.status, response.body = 304, Body.of(b"")
        return response

    async def _give(self, request: web.BaseRequest, response: Response, outcome: Outcome, gateway: Gateway) -> bytes:
        """Send an answer; returns the part of its head that it always has."""
        outcome.status = response.status
        refused_early = outcome.route == "none" and response.status in (400, 431)
        # What is in doubt about one message is in doubt about the next.
        response.closes = self._draining or refused_early
        size = response.body.size  # now: of what is arriving it becomes known later
        fixed = fixed_part(request, response, size, outcome, gateway.settings.server.cors_origins)
        body = Body.of(b"") if request.method == hdrs.METH_HEAD else response.body
        head = fixed + moving_part(outcome, self._clock.wall()) + last_part(outcome.request_id, outcome.quota)
        await send(request, head, body, chunked=size is None)
        outcome.sent_bytes = body.size or 0
        return fixed

    def _learn(self, request: web.BaseRequest, known: Known | None) -> None:
        """Let the hit lane know a request by its bytes."""
        headers, handler = request.headers, request.protocol
        if hdrs.CONNECTION in headers or "traceparent" in headers or "X-Request-ID" in headers:
            return  # the lane would not have it, and most of these are one of their kind
        if self._lane is None or not isinstance(handler, Handler) or not handler.segments:
            return
        start = f"{request.method} {request.raw_path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
        if handler.segments[0].startswith(start):
            self._lane.learn(handler.segments, known)

    async def drain(self, seconds: float) -> None:
        """Let the requests under way finish within so many seconds; end the rest."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # Connections tell nobody when they are done.
                while self._open or (self._server is not None and self._server.begin_to_close()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for task in list(self._open):
            task.cancel()

    def cut_off(self, access: Access, now: float) -> None:
        """End every request under way whose token the new configuration does not admit."""
        for task, outcome in list(self._open.items()):
            if outcome.client != "-" and not access.still_admits(outcome.client, outcome.token_sha256, now):
                task.cancel()

    def _error(self, error: GatewayError, outcome: Outcome) -> Response:
        outcome.reason = error.reason
        return Response(
            status=error.status,
            body=Body.of(problem(error.status, error.title, error.detail, outcome.request_id)),
            content_type="application/problem+json",
            retry_after=error.retry_after,
            cache_control="no-store",
            allow=error.allow if isinstance(error, MethodNotAllowed) else (),
            authenticate=isinstance(error, Unauthorized),
        )
