"""Renders the `data` of a result as CSV or TSV, byte for byte as Redash does (CONTRACT 8). No XLSX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

import msgspec

from gateway.errors import UpstreamUnusable

_STRFTIME = (("DD", "%d"), ("MM", "%m"), ("YYYY", "%Y"), ("YY", "%y"), ("HH", "%H"), ("mm", "%M"), ("ss", "%S"))
_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?:Z|[+-]\d\d:?\d\d)?", re.ASCII)
_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d)?")

_ROWS_AT_ONCE = 500

DELIMITERS = {"csv": ",", "tsv": "\t"}
"""As Redash writes each form."""

Convert = Callable[[object], object]


class DateFormats(msgspec.Struct, frozen=True):
    """The organisation's formats, in Redash's notation; its defaults."""

    date: str = "DD/MM/YY"
    date_time: str = "DD/MM/YY HH:mm"


def render_pieces(
    columns: object, rows: Iterable[object], delimiter: str, formats: DateFormats | None, most_cells: float = math.inf
) -> Iterator[bytes]:
    """Render rows piece by piece, as far as each is wanted: a few hundred rows at a time.

    Without `formats`, dates are written as in ISO 8601, with a space before the time and without its zone, which Excel
    does not read; Redash's own formats have no zone, either.

    Raises:
        UpstreamUnusable: that would be more than `most_cells`.
    """
    known = columns if isinstance(columns, list) else []
    converters = _converters(formats)
    fields = [(str(c["name"]), converters.get(str(c.get("type")), _as_is)) for c in known if isinstance(c, Mapping)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)  # as Redash: "\r\n", quotes where needed, null is empty
    writer.writerow([name for name, _ in fields])
    for number, row in enumerate(rows, 1):
        if isinstance(row, Mapping):
            writer.writerow([convert(row.get(name, "")) for name, convert in fields])
        if number * len(fields) > most_cells:
            raise UpstreamUnusable(
                "Too few of the result's rows have its columns; there would be too many empty cells."
            )
        if number % _ROWS_AT_ONCE == 0:
            yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    """Return what was written, and begin anew."""
    written = text.getvalue().encode("utf-8", "replace")
    text.seek(0)
    text.truncate()
    return written


def _converters(formats: DateFormats | None) -> dict[str, Convert]:
    if formats is None:
        return {"boolean": _boolean, "date": _spaced, "datetime": _spaced}
    return {
        "boolean": _boolean,
        "date": lambda value: _formatted(value, _strftime(formats.date)),
        "datetime": lambda value: _formatted(value, _strftime(formats.date_time)),
    }


def _strftime(redash_format: str) -> str:
    for token, directive in _STRFTIME:
        redash_format = redash_format.replace(token, directive)
    return redash_format


def _as_is(value: object) -> object:
    return value


def _boolean(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _spaced(value: object) -> object:
    found = _ISO_TIME.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else f"{found[1]} {found[2]}"


def _formatted(value: object, strftime: str) -> object:
    """Return an ISO date in Redash's format, any other value unchanged."""
    if not isinstance(value, str) or not value:
        return value
    whole = value + "-01-01"[len(value) - 4 :] if _PARTIAL_DATE.fullmatch(value) else value
    try:
        return datetime.fromisoformat(whole).strftime(strftime)
    except ValueError:
        return value
