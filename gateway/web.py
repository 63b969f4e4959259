"""The API listener: HTTP requests into `Request`, `Answer` and errors into HTTP. aiohttp's server ends here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web

from gateway.access import Access
from gateway.connection import Handler, Server, check_framing, lane_is_possible, problem
from gateway.errors import (
    BadRequest,
    ContentTooLarge,
    GatewayError,
    MethodNotAllowed,
    Misdirected,
    Unauthorized,
    UpstreamRefused,
)
from gateway.hitlane import HitLane, next_request_id
from gateway.model import Answer, Body, Clock, Request
from gateway.outcome import Outcome, Quota, Teller
from gateway.pipeline import Gateway
from gateway.redact import text_without_keys
from gateway.sending import send
from gateway.tracing import incoming

log = logging.getLogger("gateway.web")

BODY_SECONDS: Final = 30.0
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_VARY: Final = "Authorization, Accept-Encoding, Prefer, Origin"
_EXPOSED: Final = "Age, Cache-Status, ETag, Retry-After, Preference-Applied, X-Request-ID"


class Api:
    """Answers every request of the API listener."""

    def __init__(self, gateway: Callable[[], Gateway], teller: Teller, clock: Clock, lane: HitLane | None) -> None:
        self._gateway = gateway
        self._teller = teller
        self._clock = clock
        self._lane = lane if lane_is_possible() else None
        self._draining = False
        self._server: Server | None = None
        self._open: dict[asyncio.Task[object], Outcome] = {}

    def server(self) -> Server:
        """Return the server that a socket is given to."""
        if self._lane is None:
            log.warning("the hit lane is off; every request takes the ordinary way")
        self._server = Server(self.handle, self._refused, self._lane)
        return self._server

    def _refused(self, status: int) -> None:
        """Tell of a request that was no HTTP, or more of it than is read."""
        reason = {414: "uri_too_long", 431: "headers_too_large"}.get(status, "bad_request")
        self._teller.request(Outcome(request_id="-", status=status, reason=reason))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and tell its outcome once: when the answer has left, or its caller has."""
        outcome = Outcome(request_id=_request_id(request), started=self._clock.monotonic(), status=499)
        outcome.trace = self._teller.begin(incoming(request.headers))
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._open[task] = outcome
        generation = self._lane.generation if self._lane is not None else 0
        try:
            gateway = self._gateway()
            answer = await self._answer(request, outcome, gateway)
            response = _dressed(request, answer, outcome, gateway.settings.server.cors_origins)
            refused_early = outcome.route == "none" and answer.status in (400, 431)
            if self._draining or refused_early:  # what is in doubt about one message is in doubt about the next
                response.force_close()
            await send(request, response, answer.body, outcome)
            # While it was judged and sent, a reload, a run or an edit may have made another answer of it.
            if answer.ticket is not None and self._lane is not None and self._lane.generation == generation:
                _register(self._lane, request, response, answer, outcome)
            return response
        finally:
            del self._open[task]
            outcome.duration = self._clock.monotonic() - outcome.started
            self._teller.request(outcome)

    async def drain(self, seconds: float) -> None:
        """Let the requests under way finish within so many seconds; end the rest."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open or (self._server is not None and self._server.begin_to_close()):
                    await asyncio.wait(list(self._open) or [asyncio.create_task(asyncio.sleep(0.01))])
        for task in list(self._open):
            task.cancel()

    def cut_off(self, access: Access, now: float) -> None:
        """End every request under way whose token the new configuration does not admit."""
        for task, outcome in list(self._open.items()):
            if outcome.client != "-" and not access.still_admits(outcome.client, outcome.token_sha256, now):
                task.cancel()

    async def _answer(self, request: web.BaseRequest, outcome: Outcome, gateway: Gateway) -> Answer:
        try:
            self._check_head(request, gateway)
            if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
                return Answer(status=204, body=Body.of(b""), content_type="")
            body = await _read_body(request, gateway.settings.server.max_request_body)
            return await gateway.answer(_read_head(request, body), outcome)
        except UpstreamRefused as refused:
            outcome.reason = refused.reason
            return Answer(status=refused.status_code, body=refused.body, content_type=refused.content_type)
        except GatewayError as error:
            return self._error(error, outcome)
        except Exception:
            log.exception("internal error, request %s", outcome.request_id)
            return self._error(GatewayError("Internal error of the gateway; its log says more."), outcome)

    def _check_head(self, request: web.BaseRequest, gateway: Gateway) -> None:
        check_framing(request)
        if not request.raw_path.startswith("/") or "#" in request.raw_path:
            raise BadRequest("The request target must be a path and a query string, without host and fragment.")
        hosts = gateway.settings.server.hosts
        host = _HOST.fullmatch(request.headers.get(hdrs.HOST, ""))
        if host is None or ("*" not in hosts and host[1].lower() not in hosts):
            raise Misdirected("The Host of this request is not among the gateway's server.hosts.")
        if len(request.headers.getall(hdrs.AUTHORIZATION, ())) > 1:
            raise BadRequest("The request has more than one Authorization header.")

    def _error(self, error: GatewayError, outcome: Outcome) -> Answer:
        outcome.reason = error.reason
        return Answer(
            status=error.status,
            body=Body.of(problem(error.status, error.title, error.detail, outcome.request_id)),
            content_type="application/problem+json",
            retry_after=error.retry_after,
            cache_control="no-store",
            allow=error.allow if isinstance(error, MethodNotAllowed) else (),
            authenticate=isinstance(error, Unauthorized),
        )


def _register(
    lane: HitLane, request: web.BaseRequest, response: web.StreamResponse, answer: Answer, outcome: Outcome
) -> None:
    """Offer the answer to the hit lane, with the bytes that asked for it."""
    handler = request.protocol
    if answer.ticket is None or answer.body.data is None or not isinstance(handler, Handler) or not handler.segments:
        return
    start = f"{request.method} {request.raw_path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    if handler.segments[0].startswith(start):
        body = b"" if request.method == hdrs.METH_HEAD else answer.body.data
        lane.register(handler.segments, answer.ticket, list(response.headers.items()), body, outcome)


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    # What looks like a key or token is none: it would be echoed, logged and sent on.
    sane = _SANE_ID.fullmatch(given) and text_without_keys(given) == given
    return given if sane else next_request_id()


def _read_head(request: web.BaseRequest, body: bytes) -> Request:
    """Take path and query string from the raw target."""
    path, _, query_string = request.raw_path.partition("?")
    return Request(request.method, path, query_string, request.headers, body)


async def _read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Read the request's body.

    Raises:
        ContentTooLarge: above `limit` bytes.
        BadRequest: slower than the deadline, or broken off.
    """
    if not request.body_exists:
        return b""
    too_large = ContentTooLarge(f"The body is larger than the {limit} bytes of server.max_request_body.")
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer
    if request.content.is_eof():  # all of it came with the head
        body = bytearray(request.content.read_nowait())
        if len(body) > limit:
            raise too_large
        return bytes(body)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    except (ValueError, web.RequestPayloadError):
        raise BadRequest("The body is not framed as RFC 9112 has it.") from None
    return bytes(body)


def _dressed(
    request: web.BaseRequest, answer: Answer, outcome: Outcome, origins: tuple[str, ...]
) -> web.StreamResponse:
    """Make the response: fields of the answer, and those that every answer has."""
    if answer.etag and request.method in ("GET", "HEAD") and _matches(request, answer.etag):
        answer.status, answer.body = 304, Body.of(b"")
    outcome.status = answer.status
    headers = {**_headers(answer, outcome), **_cors(request, origins)}
    if answer.body.data is not None:
        return web.Response(status=answer.status, body=answer.body.data, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = answer.body.size
    return response


def _matches(request: web.BaseRequest, etag: str) -> bool:
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    return given is not None and (given.strip() == "*" or f'"{etag}"' in given)


def _headers(answer: Answer, outcome: Outcome) -> dict[str, str]:
    optional = {
        hdrs.CONTENT_TYPE: answer.content_type,
        hdrs.CONTENT_DISPOSITION: answer.disposition,
        hdrs.ETAG: f'"{answer.etag}"' if answer.etag else "",
        hdrs.RETRY_AFTER: "" if answer.retry_after is None else str(max(1, math.ceil(answer.retry_after))),
        hdrs.LOCATION: answer.location,
        hdrs.ALLOW: ", ".join(answer.allow),
        hdrs.WWW_AUTHENTICATE: "Key" if answer.authenticate else "",
        "Preference-Applied": "" if answer.waited is None else f"wait={answer.waited}",
        "Cache-Status": outcome.cache_status() or "",
        hdrs.AGE: str(int(outcome.age)) if outcome.age is not None and outcome.cache in ("hit", "stale") else "",
    }
    return {
        **{name: value for name, value in optional.items() if value},
        **_quota(outcome.quota),
        hdrs.CACHE_CONTROL: answer.cache_control,
        hdrs.VARY: _VARY,
        hdrs.SERVER: "redash-gateway",
        "X-Request-ID": outcome.request_id,
        "X-Content-Type-Options": "nosniff",
    }


def _quota(quota: Quota | None) -> dict[str, str]:
    """Return the fields of the IETF's draft "RateLimit header fields for HTTP", if the client has a rate."""
    if quota is None:
        return {}
    return {
        "RateLimit-Policy": f'"client";q={quota.limit};w={quota.window}',
        "RateLimit": f'"client";r={quota.remaining};t={quota.reset}',
    }


def _cors(request: web.BaseRequest, origins: tuple[str, ...]) -> dict[str, str]:
    """Answer cross-origin requests here: Redash's own CORS cannot do a preflight (CONTRACT 16)."""
    origin = request.headers.get(hdrs.ORIGIN, "")
    if not origin or ("*" not in origins and origin not in origins):
        return {}
    headers: dict[str, str] = {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*" if "*" in origins else origin,
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _EXPOSED,
    }
    if request.method == hdrs.METH_OPTIONS:
        headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = "GET, HEAD, POST, DELETE"
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = "Authorization, Content-Type, Prefer, traceparent"
        headers[hdrs.ACCESS_CONTROL_MAX_AGE] = "600"
    return headers
