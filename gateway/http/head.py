"""Heads of responses, as bytes: first the fixed fields, then those that change each second, last those per request.

The fast path and the normal path both take them from here, so that the two cannot differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from gateway.model import Response
from gateway.outcome import Outcome, Quota
from gateway.policy.access import TOKEN_FIELDS

Field = tuple[str, str]

SERVER: Final = "redash-gateway"
"""The value of `Server` on both listeners: the software behind it is not disclosed."""

_VARY: Final = ", ".join((*TOKEN_FIELDS, "Accept", "Accept-Encoding", "Prefer", "Origin"))
_ALLOWED: Final = ", ".join(
    (*TOKEN_FIELDS, "Content-Type", "Prefer", "traceparent", "If-None-Match", "Range", "If-Range")
)
_EXPOSED: Final = (
    "Accept-Ranges, Age, Cache-Status, Content-Disposition, Content-Location, Content-Range, ETag, Location, "
    "Retry-After, Preference-Applied, RateLimit, RateLimit-Policy, Server-Timing, X-Request-ID"
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS: Final = (204, 304)


def fixed_part(
    request: web.BaseRequest, response: Response, size: int | None, outcome: Outcome, origins: tuple[str, ...]
) -> bytes:
    """Return status line and the fields that are the same whenever this response is sent; chunked without a `size`.

    Raises:
        ValueError: a field holds a control character, which could end it.
    """
    fields = [*_of_response(response), *_policy(outcome), *_cors(request, origins)]
    if response.status not in _BODILESS and not response.unsized:  # RFC 9110 section 8.6
        fields.append(_framing(size))
    fields += _connection(request, keep=not response.closes)
    return _status_line(request, response.status) + _lines(fields)


def moving_part(outcome: Outcome, wall: float) -> bytes:
    """Return the fields that change from second to second. `wall` is unix seconds."""
    cache_status = outcome.cache_status()
    text = f"Date: {_date(int(wall))}\r\n"
    if cache_status is not None:
        text += f"Cache-Status: {cache_status}\r\n"
    if (timing := server_timing(outcome)) is not None:
        text += f"Server-Timing: {timing}\r\n"
    if outcome.age is not None and outcome.cache in ("hit", "stale", "collapsed"):
        text += f"Age: {int(outcome.age)}\r\n"
    return text.encode()


def server_timing(outcome: Outcome) -> str | None:
    """Return the Server-Timing field (W3C): where the milliseconds so far went; None for what is no result or job.

    What is neither queue, Redash nor rendering is the cache: its own work, the store, the check of rights.
    """
    if outcome.cache == "none" and not outcome.execution_id:
        return None
    others = (("queue", outcome.queue_seconds), ("redash", outcome.redash_seconds), ("render", outcome.render_seconds))
    cache = max(0.0, outcome.duration - sum(seconds for _, seconds in others))
    parts = [f"cache;desc={outcome.cache};dur={cache * 1000:.2f}"]
    return ", ".join([*parts, *(f"{name};dur={seconds * 1000:.2f}" for name, seconds in others if seconds)])


def last_part(request_id: str, quota: Quota | None, budgets: tuple[Quota, ...] = ()) -> bytes:
    """Return the fields that differ for each request, and the end of the head."""
    if budgets:  # never of a hit, which is to cost little
        left = ", ".join(f"{name};r={one.remaining};t={one.reset}" for name, one in _named(quota, budgets))
    elif quota is None:
        return f"X-Request-ID: {request_id}\r\n\r\n".encode()
    else:
        left = f'"client";r={quota.remaining};t={quota.reset}'
    return f"X-Request-ID: {request_id}\r\nRateLimit: {left}\r\n\r\n".encode()


def _of_response(response: Response) -> list[Field]:
    optional = (
        (hdrs.CONTENT_TYPE, response.content_type),
        (hdrs.CONTENT_DISPOSITION, response.disposition),
        (hdrs.CONTENT_ENCODING, response.encoding if response.body.size else ""),
        (hdrs.ETAG, response.tag),
        (hdrs.RETRY_AFTER, "" if response.retry_after is None else str(max(1, math.ceil(response.retry_after)))),
        (hdrs.LOCATION, response.location),
        (hdrs.CONTENT_LOCATION, response.content_location),
        (hdrs.ACCEPT_RANGES, response.ranges),
        (hdrs.CONTENT_RANGE, response.content_range),
        ("Content-Security-Policy", response.content_policy),
        (hdrs.ALLOW, ", ".join(response.allow)),
        (hdrs.WWW_AUTHENTICATE, "Key" if response.authenticate else ""),
        ("Preference-Applied", "" if response.waited is None else f"wait={response.waited}"),
    )
    return [
        *(field for field in optional if field[1]),
        (hdrs.CACHE_CONTROL, response.cache_control),
        (hdrs.VARY, _VARY),
        (hdrs.SERVER, SERVER),
        ("X-Content-Type-Options", "nosniff"),
    ]


def _policy(outcome: Outcome) -> list[Field]:
    """Return the field that the IETF draft "RateLimit header fields for HTTP" defines, for a client with limits."""
    unit = {True: "", False: ';qu="execution-seconds"'}
    items = [
        f"{name};q={one.limit};w={one.window}{unit[one is outcome.quota]}"
        for name, one in _named(outcome.quota, outcome.budgets)
    ]
    return [("RateLimit-Policy", ", ".join(items))] if items else []


def _named(quota: Quota | None, budgets: tuple[Quota, ...]) -> list[tuple[str, Quota]]:
    """Return rate and budgets with their names in the fields."""
    rate = [] if quota is None else [('"client"', quota)]
    return rate + [(f'"budget-{one.window}"', one) for one in budgets]


def _cors(request: web.BaseRequest, origins: tuple[str, ...]) -> list[Field]:
    """Return the CORS fields. CORS is handled here, because Redash's own cannot do a preflight (CONTRACT 16)."""
    origin = request.headers.get(hdrs.ORIGIN, "")
    if not origin or ("*" not in origins and origin not in origins):
        return []
    allowed = "*" if "*" in origins else origin
    fields: list[Field] = [
        (hdrs.ACCESS_CONTROL_ALLOW_ORIGIN, allowed),
        ("Timing-Allow-Origin", allowed),
        (hdrs.ACCESS_CONTROL_EXPOSE_HEADERS, _EXPOSED),
    ]
    if request.method == hdrs.METH_OPTIONS:
        fields += [
            (hdrs.ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, DELETE"),
            (hdrs.ACCESS_CONTROL_ALLOW_HEADERS, _ALLOWED),
            (hdrs.ACCESS_CONTROL_MAX_AGE, "600"),
        ]
    return fields


def _framing(size: int | None) -> Field:
    return (hdrs.TRANSFER_ENCODING, "chunked") if size is None else (hdrs.CONTENT_LENGTH, str(size))


def _connection(request: web.BaseRequest, *, keep: bool) -> list[Field]:
    """Return `Connection`, where the default of the HTTP version is not what is meant (RFC 9112 section 9.3)."""
    keep = keep and request.keep_alive
    if request.version >= HttpVersion11:
        return [] if keep else [(hdrs.CONNECTION, "close")]
    return [(hdrs.CONNECTION, "keep-alive")] if keep else []


def _status_line(request: web.BaseRequest, status: int) -> bytes:
    major, minor = request.version
    return f"HTTP/{major}.{minor} {status} {_phrase(status)}\r\n".encode()


@lru_cache(maxsize=64)
def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _lines(fields: Iterable[Field]) -> bytes:
    lines = [f"{name}: {value}" for name, value in fields]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a field of the response holds a control character")
    return "".join(f"{line}\r\n" for line in lines).encode()


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
