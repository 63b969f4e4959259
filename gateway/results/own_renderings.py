"""CSV and TSV of reduced results, which only the gateway can make: rendered in bounded memory, in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from mmap import mmap
from typing import Final, Literal

import msgspec

from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.errors import FileLost, UpstreamUnusable
from gateway.redash.limits import NOT_SUCH
from gateway.redash.renderings import DELIMITERS, DateFormats, render_pieces
from gateway.results.gathering import gathered

LARGEST_ODD: Final = 4 * 1024 * 1024
"""JSON that only the standard parser takes may have this size: it needs 20 ms per MB in one go, and much memory."""

_PIECE: Final = 256 * 1024
_TOO_ODD: Final = "Redash's result is too large for what is wrong with its JSON (NaN, for example)."

MOST_CELLS: Final = 10
"""Per byte of a result. Every row of a table names all columns; few columns in each of many rows cost as if it did."""


class _Data(msgspec.Struct):
    columns: object = None
    rows: list[msgspec.Raw] = []


class _Result(msgspec.Struct):
    data: _Data


class _Reduced(msgspec.Struct):
    query_result: _Result


_results: Final = msgspec.json.Decoder(_Reduced)


async def render(body: Body, form: Literal["csv", "tsv"], formats: DateFormats, begin_spool: BeginSpool) -> Body:
    """Render the rows of a result, in a thread; a large rendering is a file.

    Raises:
        UpstreamUnusable: the result is nested too deeply.
        FileLost: its file was removed or changed.
        ServiceUnavailable: there is no room for the rendering.
    """
    async with aclosing(_in_thread(_pieces(body, form, formats))) as made:
        return await gathered(made, begin_spool)


async def _in_thread(pieces: Iterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    while some := await asyncio.to_thread(_next, pieces, _PIECE):
        yield some


def _pieces(body: Body, form: Literal["csv", "tsv"], formats: DateFormats) -> Iterator[bytes]:
    with body.mapped() as data:  # the rows are parts of it, so all of them are rendered in here
        columns, rows = _parse(data)
        yield from render_pieces(columns, rows, DELIMITERS[form], formats, MOST_CELLS * body.size)


def _next(pieces: Iterator[bytes], least: int) -> list[bytes]:
    """Return the next pieces, at least so many bytes; fewer only at the end."""
    taken: list[bytes] = []
    size = 0
    try:
        while size < least and (piece := next(pieces, None)) is not None:
            taken.append(piece)
            size += len(piece)
    except RecursionError:  # of a body so large that only its ends were parsed before, or of the text of a cell
        raise UpstreamUnusable("Redash's result is nested too deeply.") from None
    except OSError as error:
        raise FileLost from error
    return taken


def _parse(data: bytes | mmap) -> tuple[object, Iterable[object]]:
    """Return columns and rows; each row is parsed when it is rendered, so that other threads run in between."""
    try:
        found = _results.decode(data).query_result.data
    except NOT_SUCH:  # NaN, lone surrogates, what else json takes
        if len(data) > LARGEST_ODD:
            raise UpstreamUnusable(_TOO_ODD) from None
        whole = json.loads(data[:])["query_result"]["data"]
        rows = whole.get("rows")
        return whole.get("columns"), rows if isinstance(rows, list) else []
    return found.columns, (json.loads(bytes(row)) for row in found.rows)
