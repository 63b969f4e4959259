"""Receiving a request: its head checked, its body read, and what its answer depends on."""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web

from gateway.errors import BadRequest, ContentTooLarge, MisdirectedRequest
from gateway.http.connection import check_framing
from gateway.http.fast_path import next_request_id
from gateway.http.response_cache import Meaning
from gateway.model import Request
from gateway.redash.redaction import text_without_keys

BODY_SECONDS: Final = 30.0
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_BROKEN: Final = "The body is not framed as RFC 9112 has it."


def request_id(request: web.BaseRequest) -> str:
    """Return the caller's own id, if it is short and plain, else a new one."""
    given = request.headers.get("X-Request-ID")
    if given is None or not _SANE_ID.fullmatch(given):
        return next_request_id()
    # What looks like a key or token is none: it would be echoed, logged and sent on.
    return given if text_without_keys(given) == given else next_request_id()


def check_head(request: web.BaseRequest, hosts: tuple[str, ...]) -> None:
    """Refuse what could be read in two ways, and what is meant for somebody else.

    Raises:
        BadRequest: target or framing are not plain; two Authorization fields.
        RequestHeaderFieldsTooLarge: see `check_framing`.
        MisdirectedRequest: `hosts` does not have the Host (DNS rebinding).
    """
    check_framing(request)
    if not request.raw_path.startswith("/") or "#" in request.raw_path:
        raise BadRequest("The request target must be a path and a query string, without host and fragment.")
    if not _is_one_of(request.headers.get(hdrs.HOST, ""), hosts):
        raise MisdirectedRequest("The Host of this request is not among the gateway's server.hosts.")
    if len(request.headers.getall(hdrs.AUTHORIZATION, ())) > 1:
        raise BadRequest("The request has more than one Authorization header.")


@lru_cache(maxsize=256)
def _is_one_of(host: str, hosts: tuple[str, ...]) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and ("*" in hosts or found[1].lower() in hosts)


def read_head(request: web.BaseRequest, body: bytes) -> Request:
    """Take path and query string from the raw target."""
    path, _, query_string = request.raw_path.partition("?")
    return Request(request.method, path, query_string, request.headers, body)


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Read the request's body.

    Raises:
        ContentTooLarge: above `limit` bytes.
        BadRequest: slower than the deadline, or broken off.
    """
    if not request.body_exists:
        return b""
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer
    if request.content.is_eof():  # all of it came with the head
        data = request.content.read_nowait()
        if len(data) > limit:
            raise _too_large(limit)
        return data
    return await _read_what_comes(request, limit)


async def _read_what_comes(request: web.BaseRequest, limit: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise BadRequest(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    except (ValueError, web.RequestPayloadError):
        raise BadRequest(_BROKEN) from None
    return bytes(body)


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than the {limit} bytes of server.max_request_body.")


def accepts_gzip(request: web.BaseRequest) -> bool:
    """Whether the caller can read gzip (RFC 9110 section 12.5.3)."""
    given = request.headers.get(hdrs.ACCEPT_ENCODING)
    return given is not None and _names_gzip(given)


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


def meaning_of(request: web.BaseRequest, body: bytes, token_sha256: str) -> Meaning:
    """Return everything that the answer to an admitted request depends on, but for what is stored and configured."""
    get = request.headers.get
    return (
        token_sha256,
        request.method,
        request.raw_path,
        body,
        accepts_gzip(request),
        get("Prefer"),
        get(hdrs.IF_NONE_MATCH),
        get(hdrs.ORIGIN),
        request.version,
        request.keep_alive,
    )


def has_already(request: web.BaseRequest, tag: str) -> bool:
    """Whether the caller has what bears this ETag (RFC 9110 section 13.1.2); tags are compared weakly."""
    given = request.headers.get(hdrs.IF_NONE_MATCH)
    if given is None or not tag or request.method not in ("GET", "HEAD"):
        return False
    return given.strip() == "*" or tag in given
