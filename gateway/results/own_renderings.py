"""CSV and TSV of reduced results, which only the gateway can make: rendered in bounded memory, in a thread."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Final, Literal

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.model import Body
from gateway.redash.limits import NOT_SUCH
from gateway.redash.renderings import DateFormats, render_pieces
from gateway.redash.responses import PARSE_LIMIT

LARGEST_ODD: Final = 4 * 1024 * 1024
"""JSON that only the standard parser takes may have this size: it needs 20 ms per MB in one go, and much memory."""

_TOO_ODD: Final = "Redash's result is too large for what is wrong with its JSON (NaN, for example)."

MOST_CELLS: Final = 10
"""Per byte of a result. Every row of a table names all columns; few columns in each of many rows cost as if it did."""

DELIMITERS: Final = {"csv": ",", "tsv": "\t"}


class _Data(msgspec.Struct):
    columns: object = None
    rows: list[msgspec.Raw] = []


class _Result(msgspec.Struct):
    data: _Data


class _Reduced(msgspec.Struct):
    query_result: _Result


_results: Final = msgspec.json.Decoder(_Reduced)


def render(body: Body, form: Literal["csv", "tsv"], formats: DateFormats, spool: Callable[[], Path]) -> Body:
    """Render the rows of a result; a large rendering is a file, at a path that `spool` makes. Waits for the disk.

    Raises:
        UpstreamUnusable: there is no room on disk, or the result is nested too deeply.
    """
    try:
        with body.mapped() as data:  # the rows are parts of it, so all of them are rendered in here
            columns, rows = _parse(data)
            return _rendered(render_pieces(columns, rows, DELIMITERS[form], formats, MOST_CELLS * body.size), spool)
    except RecursionError:  # of a body so large that only its ends were parsed before, or of the text of a cell
        raise UpstreamUnusable("Redash's result is nested too deeply.") from None


def _rendered(pieces: Iterator[bytes], spool: Callable[[], Path]) -> Body:
    first: list[bytes] = []
    size = 0
    for piece in pieces:
        first.append(piece)
        size += len(piece)
        if size > PARSE_LIMIT:
            return _write(first, pieces, spool())
    return Body.of(b"".join(first))


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


def _write(first: list[bytes], rest: Iterator[bytes], path: Path) -> Body:
    size = 0
    try:
        with path.open("xb") as file:
            for piece in itertools.chain(first, rest):
                size += file.write(piece)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise UpstreamUnusable("The gateway has no room on disk for this response.") from error
    return Body(size=size, path=path)
