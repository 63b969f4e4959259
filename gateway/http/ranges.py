"""Ranges of results by id (RFC 9110 section 14): to go on with a download, or to read parts of a Parquet file."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import hdrs, web

from gateway.body import Body, Part
from gateway.errors import RangeNotSatisfiable
from gateway.model import Response

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,100})-([0-9]{0,100})|-([0-9]{1,100}))", re.ASCII | re.IGNORECASE)


def wanted_part(request: web.BaseRequest, response: Response) -> Part | None:
    """Return the range that is requested of a whole body; None where all of it is sent: without a range, for several
    ranges, and for a caller that has the beginning of other bytes (`If-Range`).

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    given = request.headers.getall(hdrs.RANGE, [])
    if len(given) != 1 or request.method != hdrs.METH_GET or response.ranges != "bytes" or response.status != 200:
        return None
    found, body = _RANGE.fullmatch(given[0].strip()), response.body
    if found is None or not isinstance(body, Body) or not _has_same(request, response):
        return None
    return _part(body, found[1], found[2], found[3])


def send_part(response: Response, part: Part) -> None:
    """Let the response have only this part."""
    data = part.whole.data
    response.status = 206
    response.content_range = f"bytes {part.start}-{part.end - 1}/{part.whole.size}"
    response.body = part if data is None else Body.of(data[part.start : part.end])
    response.reuse = None


def _has_same(request: web.BaseRequest, response: Response) -> bool:
    """Whether `If-Range` names these bytes: by their tag, as the time of a change is not known (section 13.1.5)."""
    given = request.headers.getall(hdrs.IF_RANGE, [])
    return not given or [tag.strip() for tag in given] == [response.tag]


def _part(body: Body, first: str | None, last: str | None, suffix: str | None) -> Part | None:
    if suffix is not None:
        start, end = max(0, body.size - int(suffix)), body.size
    else:
        start, end = int(first or 0), min(int(last) + 1, body.size) if last else body.size
        if last and int(last) < start:
            return None  # it is no range (section 14.1.1)
    if start >= body.size:
        error = RangeNotSatisfiable(f"The result has {body.size} bytes; the requested range begins behind its end.")
        error.size = body.size
        raise error
    return Part(body, start, end - start)
