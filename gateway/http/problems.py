"""Errors as callers see them: the JSON of problem details, and the text for a request that the parser refused."""

from __future__ import annotations

import json
from typing import Final

from aiohttp.http_exceptions import InvalidURLError, LineTooLong

from gateway.errors import BadRequest, RequestHeaderFieldsTooLarge, UriTooLong

MAX_TARGET_BYTES: Final = 8190
MAX_FIELD_BYTES: Final = 8191
"""Differs from the limit for targets, because the parser's error distinguishes the two by this number only."""


def problem(status: int, title: str, detail: str, request_id: str) -> bytes:
    """Return an error of the gateway as JSON: RFC 9457, and `message`, which Redash's clients read."""
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "message": detail}
    return json.dumps({**members, "request_id": request_id}).encode()


def describe(status: int, exc: BaseException | None) -> tuple[int, str, str]:
    """Describe what the parser refused by the type of its error only: the error's text holds the offending line."""
    if isinstance(exc, LineTooLong) and exc.args[1] == MAX_TARGET_BYTES:
        return UriTooLong.status, UriTooLong.title, f"The request target is longer than {MAX_TARGET_BYTES} bytes."
    if isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
        kind = RequestHeaderFieldsTooLarge
        return kind.status, kind.title, "The request has too many header fields, or too long ones."
    if isinstance(exc, InvalidURLError):
        detail = "The request target has characters that no URL has. Percent-encode them, as UTF-8: %C3%A9 for é."
        return BadRequest.status, BadRequest.title, detail
    if status == 400:
        return BadRequest.status, BadRequest.title, "The request is not valid HTTP/1.1 (RFC 9112)."
    return status, "Internal error", "Internal error of the gateway."
