"""Renders the `data` of a result as CSV or TSV, byte for byte as Redash does (CONTRACT 8). No XLSX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

_STRFTIME = (("DD", "%d"), ("MM", "%m"), ("YYYY", "%Y"), ("YY", "%y"), ("HH", "%H"), ("mm", "%M"), ("ss", "%S"))
_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d)?")

Convert = Callable[[object], object]


class DateFormats(msgspec.Struct, frozen=True):
    """The organisation's formats, in Redash's notation; its defaults."""

    date: str = "DD/MM/YY"
    date_time: str = "DD/MM/YY HH:mm"


def render_csv(data: Mapping[str, object], formats: DateFormats) -> bytes:
    """Render `{"columns": […], "rows": […]}` as CSV."""
    return _render(data, ",", formats)


def render_tsv(data: Mapping[str, object], formats: DateFormats) -> bytes:
    """Render as `render_csv` does, with tabs."""
    return _render(data, "\t", formats)


def _render(data: Mapping[str, object], delimiter: str, formats: DateFormats) -> bytes:
    columns, rows = _mappings(data.get("columns")), _mappings(data.get("rows"))
    converters = _converters(formats)
    fields = [(str(column["name"]), converters.get(str(column.get("type")), _as_is)) for column in columns]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)  # as Redash: "\r\n", quotes where needed, null is empty
    writer.writerow([name for name, _ in fields])
    writer.writerows([[convert(row.get(name, "")) for name, convert in fields] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _converters(formats: DateFormats) -> dict[str, Convert]:
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


def _formatted(value: object, strftime: str) -> object:
    """Return an ISO date in Redash's format, any other value unchanged."""
    if not isinstance(value, str) or not value:
        return value
    whole = value + "-01-01"[len(value) - 4 :] if _PARTIAL_DATE.fullmatch(value) else value
    try:
        return datetime.fromisoformat(whole).strftime(strftime)
    except ValueError:
        return value
