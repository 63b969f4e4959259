"""Reading a request: its head is checked, its body read within limits, its request key made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import chain
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from multidict import MultiMapping

from gateway.config.mistakes import may_be_secret
from gateway.errors import (
    BadRequest,
    ContentTooLarge,
    MisdirectedRequest,
    RequestHeaderFieldsTooLarge,
)
from gateway.http.bodies import Bodies
from gateway.http.request_key import MAX_HEAD_BYTES, MEANINGFUL
from gateway.model import Request
from gateway.policy.access import TOKEN_FIELDS
from gateway.redash.footprint import weight
from gateway.redash.matching import is_ping
from gateway.upstream.frames import without_frames

BODY_SECONDS: Final = 30.0
_UNCOUNTED_BYTES: Final = 1_024
"""A body up to this size takes less memory than its connection, whose number is limited."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_SHOWN_HOST: Final = 100
_SHOWN_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}|\[[0-9A-Fa-f:.]{2,50}\]")
_LONGEST_CACHED: Final = 300
"""Longer fields are not looked at, so that they are no keys of caches: no name of a host is so long, nor any list of
codings that a client sends."""

Take = Callable[[int], None]
_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_BROKEN: Final = "The body is not framed as RFC 9112 requires."


def read_head(request: web.BaseRequest, hosts: tuple[str, ...], prefix: str) -> Request:
    """Return the head of a request as values; `prefix` is `server.path_prefix`.

    Raises:
        BadRequest: target or framing are ambiguous; more than one field with a token.
        RequestHeaderFieldsTooLarge: all fields together are too long.
        MisdirectedRequest: the Host is not among `hosts` (DNS rebinding).
    """
    _check_framing(request)
    host, target = _host_and_target(request)
    path, _, query_string = target.partition("?")
    if not (len(host) <= _LONGEST_CACHED and _is_one_of(host, hosts)) and not is_ping(
        path, prefix
    ):  # load balancers ask by address, or name no Host
        detail = f"{unknown_host(host)}; its operator can add it there."
        raise MisdirectedRequest(detail, refused=f"host {host[:_SHOWN_HOST]}")
    headers, is_http_1_0 = request.headers, request.version < HttpVersion11
    meaningful = {name: headers[name] for name in MEANINGFUL if name in headers}
    return Request(
        request.method, path, query_string, meaningful, _accepts_gzip(headers), is_http_1_0, token_field(headers)
    )


def unknown_host(host: str) -> str:
    """Return the beginning of an error: the name in a Host that is not known, as the configuration would have it."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    shown = f"'{name}' " if _SHOWN_NAME.fullmatch(name) and not may_be_secret(name) else ""
    return f"The Host {shown}of this request is not among the gateway's server.hosts"


def _host_and_target(request: web.BaseRequest) -> tuple[str, str]:
    """Return whom the request is for, and its path with the query string.

    In absolute-form the target itself names the host, and the field is ignored (RFC 9112 section 3.2.2).
    """
    host, target = request.headers.get(hdrs.HOST, ""), request.raw_path
    if not target.startswith("/") and (absolute := _ABSOLUTE.fullmatch(target)) is not None:
        host, target = absolute[1], absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    if not target.startswith("/") or "#" in target:
        raise BadRequest(
            "The request must be HTTP/1.0 or 1.1, and its target a path and a query string, without a fragment."
        )
    return host, target


def token_field(headers: MultiMapping[str]) -> tuple[str, str] | None:
    """Return name and value of the header with the token, None without one.

    Raises:
        BadRequest: there are several, and a proxy or Redash may take another one than the gateway.
    """
    token = None
    for name in TOKEN_FIELDS:
        if name not in headers:
            continue
        if token is not None:
            raise BadRequest(f"The request has tokens in several headers; send one of {', '.join(TOKEN_FIELDS)}.")
        values = headers.getall(name)
        if len(values) > 1:
            raise BadRequest(f"The request has more than one {name} header.")
        token = name, values[0]
    return token


def _check_framing(request: web.BaseRequest) -> None:
    """Refuse what the parser accepts but a proxy in front may read in another way (RFC 9112 section 6).

    Raises:
        BadRequest: a transfer coding other than chunked.
        RequestHeaderFieldsTooLarge: all fields together are too long.
    """
    if hdrs.TRANSFER_ENCODING in request.headers:
        codings = request.headers.getall(hdrs.TRANSFER_ENCODING)
        if [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise BadRequest("The request's Transfer-Encoding is not just 'chunked'.")
    if sum(map(len, chain.from_iterable(request.raw_headers))) > MAX_HEAD_BYTES:
        raise RequestHeaderFieldsTooLarge(
            f"The request's header fields are together longer than {MAX_HEAD_BYTES} bytes."
        )


@lru_cache(maxsize=256)
def _is_one_of(host: str, hosts: tuple[str, ...]) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and ("*" in hosts or found[1].lower() in hosts)


def is_preflight(request: web.BaseRequest) -> bool:
    """Whether this is a CORS preflight (Fetch standard, "CORS-preflight request")."""
    return request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


async def read_body(request: web.BaseRequest, limit: int, bodies: Bodies | None = None) -> bytes:
    """Read the request's body, at most `limit` bytes; `bodies` counts it until the request has ended.

    Raises:
        ContentTooLarge: it is larger.
        BadRequest: it is slower than the deadline, or incomplete.
        ServiceUnavailable: the bodies in progress take too much memory already.
    """
    if not request.body_exists:
        return b""
    whole = request.content.read_nowait() if request.content.is_eof() else None  # it came with the head
    if whole is not None and len(whole) <= min(limit, _UNCOUNTED_BYTES):
        return whole
    take = partial(bodies.take, request.task) if bodies is not None else _ignore
    announced = request.content_length
    if announced is not None and announced > limit:
        raise _too_large(limit)
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the interim response does not count as the response
    if whole is not None:
        data, counted = whole, 0
        if len(data) > limit:
            raise _too_large(limit)
    elif announced is not None:
        take(announced)
        data, counted = await _read_what_comes(request, limit, _ignore), announced
    else:  # of unknown length: counted as it comes
        data = await _read_what_comes(request, limit, take)
        counted = len(data)
    take(weight(data) - counted)  # its JSON takes more than its text
    return data


def _ignore(_: int) -> None:
    """Count nothing."""


async def _read_what_comes(request: web.BaseRequest, limit: int, take: Take) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                if take is not None:  # of unknown length: counted as it arrives
                    take(len(chunk))
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    except (ValueError, web.RequestPayloadError) as error:
        without_frames(error)
        raise BadRequest(_BROKEN) from None
    return bytes(body)


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than the {limit} bytes of server.max_request_body.")


def _accepts_gzip(headers: MultiMapping[str]) -> bool:
    """Whether the caller can read gzip (RFC 9110 section 12.5.3)."""
    given = headers.get(hdrs.ACCEPT_ENCODING)
    return given is not None and len(given) <= _LONGEST_CACHED and _names_gzip(given)


@lru_cache(maxsize=256)
def _names_gzip(accept_encoding: str) -> bool:
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, _, parameter = part.partition(";")
        name, _, weight = parameter.partition("=")
        try:
            weights[coding.strip()] = float(weight) if name.strip() == "q" else 1.0
        except ValueError:
            return False
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
