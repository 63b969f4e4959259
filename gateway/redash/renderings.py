"""Renders the `data` of a result as CSV or TSV, byte for byte as Redash does (CONTRACT 8). No XLSX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from datetime import datetime

_STRFTIME = (("DD", "%d"), ("MM", "%m"), ("YYYY", "%Y"), ("YY", "%y"), ("HH", "%H"), ("mm", "%M"), ("ss", "%S"))
_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d)?")

Convert = Callable[[object], object]


def render_csv(data: Mapping[str, object], date_format: str = "DD/MM/YY", time_format: str = "HH:mm") -> bytes:
    """Render `{"columns": […], "rows": […]}` as CSV; the formats are organisation settings, here Redash's defaults."""
    return _render(data, ",", date_format, time_format)


def render_tsv(data: Mapping[str, object], date_format: str = "DD/MM/YY", time_format: str = "HH:mm") -> bytes:
    """Render as `render_csv` does, with tabs."""
    return _render(data, "\t", date_format, time_format)


def _render(data: Mapping[str, object], delimiter: str, date_format: str, time_format: str) -> bytes:
    columns, rows = _mappings(data.get("columns")), _mappings(data.get("rows"))
    converters = _converters(date_format, time_format)
    fields = [(str(column["name"]), converters.get(str(column.get("type")), _as_is)) for column in columns]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)  # as Redash: "\r\n", quotes where needed, null is empty
    writer.writerow([name for name, _ in fields])
    writer.writerows([[convert(row.get(name, "")) for name, convert in fields] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _converters(date_format: str, time_format: str) -> dict[str, Convert]:
    return {
        "boolean": _boolean,
        "date": lambda value: _formatted(value, _strftime(date_format)),
        "datetime": lambda value: _formatted(value, _strftime(f"{date_format} {time_format}")),
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
