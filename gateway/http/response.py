"""From a `Response` to what is sent: encoding or 304 as negotiated, errors as problem details, the head."""

from __future__ import annotations

import math

from aiohttp import HttpVersion11, hdrs, web

from gateway.body import Body, Events, Part
from gateway.errors import GatewayError, MethodNotAllowed, RangeNotSatisfiable, Unauthorized, UpstreamRefused
from gateway.http.head import fixed_part, last_part, moving_part
from gateway.http.problems import problem
from gateway.http.ranges import send_part, wanted_part
from gateway.http.sending import send
from gateway.model import Response
from gateway.outcome import Outcome
from gateway.store.compression import Compressor

NOTHING = Body.of(b"")


async def negotiate(request: web.BaseRequest, response: Response, compressor: Compressor, *, gzip: bool) -> Response:
    """Use the gzip form, if the caller accepts it (`gzip`); respond 304 without a body, if the caller has it already,
    or with the part that the caller requests.

    Raises:
        RangeNotSatisfiable: there is no such part.
        UpstreamError: an arriving body failed before its first byte could be sent.
    """
    if not isinstance(response.body, Body | Events | Part):
        # With HTTP/1.0 a caller cannot distinguish the end of a body of unknown size from a failure.
        framed = response.body.size is not None or request.version >= HttpVersion11
        await response.body.follow(0 if framed else math.inf)
    part = None if _has_already(request, response.tag) else wanted_part(request, response)
    if gzip and part is None:
        form = response.gzip
        if form is None and response.entry is not None and isinstance(response.body, Body):
            form = await compressor.gzip(response.entry, response.body)
        if form is not None:
            response.body, response.encoding = form, "gzip"
    if _has_already(request, response.tag):
        response.status, response.body = 304, NOTHING
    elif part is not None:
        send_part(response, part)
    return response


def _has_already(request: web.BaseRequest, tag: str) -> bool:
    """Whether the caller has the body with this ETag (RFC 9110 section 13.1.2); tags are compared weakly."""
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is None or not tag or request.method not in ("GET", "HEAD"):
        return False
    return given.strip() == "*" or tag in given


async def send_response(
    request: web.BaseRequest, response: Response, outcome: Outcome, *, origins: tuple[str, ...], wall: float
) -> bytes:
    """Send a response and note in `outcome` what was sent. Returns the fixed part of its head.

    `origins` are those of `server.cors_origins`, `wall` is unix seconds.

    Raises:
        ConnectionError: the caller has left.
        TimeoutError: the caller reads too slowly.
        GatewayError: the body failed while it arrived.
    """
    outcome.status = response.status
    size = response.body.size  # read once: the size of an arriving body may become known later
    fixed = fixed_part(request, response, size, outcome, origins)
    body = NOTHING if request.method == hdrs.METH_HEAD else response.body
    head = fixed + moving_part(outcome, wall) + last_part(outcome.request_id, outcome.quota, outcome.budgets)
    await send(request, head, body, chunked=size is None)
    outcome.sent_bytes = body.size or 0
    return fixed


def error_response(error: GatewayError, outcome: Outcome) -> Response:
    """Turn an error into its response: Redash's refusal unchanged, everything else as problem details (RFC 9457)."""
    outcome.record_error(error.reason, error.refused)
    if isinstance(error, UpstreamRefused):
        return Response(status=error.status_code, body=error.body, content_type=error.content_type)
    return Response(
        status=error.status,
        body=Body.of(problem(error.status, error.title, error.detail, outcome.request_id)),
        content_type="application/problem+json",
        retry_after=error.retry_after,
        cache_control="no-store",
        allow=error.allow if isinstance(error, MethodNotAllowed) else (),
        authenticate=isinstance(error, Unauthorized),
        content_range=f"bytes */{error.size}" if isinstance(error, RangeNotSatisfiable) else "",
    )
