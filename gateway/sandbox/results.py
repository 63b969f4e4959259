"""Stored results: their JSON bytes, made once and the same on all routes, and the files derived from them
(CONTRACT 8). The api modules decide which result a caller gets.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .json_text import dumps, reread
from .timestamps import SECOND, timestamp
from .versions import Version
from .warehouse import Columns, Rows, Table
from .xlsx import workbook

Loader = Callable[[], Table]


class Result:
    """One stored result. It never changes; the rows of a sample result are loaded when it is first read."""

    def __init__(
        self,
        id: int,
        query_hash: str,
        query: str,
        data_source_id: int,
        retrieved_at: int,
        *,
        version: Version,
        runtime: float,
        table: Table | None = None,
        load: Loader | None = None,
    ) -> None:
        self.id = id
        self.query_hash = query_hash
        self.query = query
        self.data_source_id = data_source_id
        self.retrieved_at = retrieved_at
        self.runtime = runtime
        self._version = version
        self._load = load
        self._lock = threading.Lock()
        self._data = "" if table is None else self._rendered(table)
        self._full = b""

    @property
    def is_loaded(self) -> bool:
        """Whether the bytes are ready, so that reading them takes no time."""
        return bool(self._full)

    @property
    def data(self) -> dict[str, Any]:
        """`columns` and `rows` as readers see them."""
        self.full()
        parsed: dict[str, Any] = json.loads(self._data)
        return parsed

    def full(self) -> bytes:
        """The complete body. Call it in a thread unless `is_loaded`: it may run the query."""
        with self._lock:
            if not self._full:
                if not self._data:
                    self._data = self._rendered(self._load() if self._load is not None else Table([], [], 0.0))
                self._full = self._render()
            return self._full

    def reduced(self) -> bytes:
        """The body for query keys and dashboard tokens after a POST (CONTRACT 6)."""
        self.full()
        return self._with_data({"data": None, "retrieved_at": timestamp(self.retrieved_at)})

    def _render(self) -> bytes:
        return self._with_data(
            {
                "id": self.id,
                "query_hash": self.query_hash,
                "query": self.query,
                "data": None,
                "data_source_id": self.data_source_id,
                "runtime": self.runtime,
                "retrieved_at": timestamp(self.retrieved_at),
            }
        )

    def _with_data(self, members: dict[str, Any]) -> bytes:
        """The rows are written once for all bodies, wherever the version has `data` among the members."""
        head, _, tail = dumps({"query_result": members}, self._version).partition('"data": null')
        return f'{head}"data": {self._data}{tail}'.encode()

    def _rendered(self, table: Table) -> str:
        return dumps(reread({"columns": table.columns, "rows": table.rows}, self._version), self._version)


def as_separated(result: Result, delimiter: str, date_format: str, time_format: str) -> bytes:
    """CSV or TSV with dates in the organisation's formats."""
    formats = {"date": _strftime(date_format), "datetime": _strftime(f"{date_format} {time_format}")}
    columns, rows = _content(result)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow([column["name"] for column in columns])
    for row in rows:
        writer.writerow([_text(row[column["name"]], formats.get(column["type"] or "")) for column in columns])
    return out.getvalue().encode()


def as_workbook(result: Result, now: int) -> bytes:
    """An XLSX file."""
    columns, rows = _content(result)
    names = [column["name"] for column in columns]
    cells = ([_xlsx(row[name]) for name in names] for row in rows)
    return workbook(names, cells, 1970 + now // (31_557_600 * SECOND))


def options(result: Result) -> list[dict[str, str]]:
    """The options of a dropdown: columns `name` and `value`; a missing one is the first column (CONTRACT 12)."""
    columns, rows = _content(result)
    names = [column["name"] for column in columns]
    first = names[0] if names else ""
    title, value = (column if column in names else first for column in ("name", "value"))
    return [{"name": str(row[title]), "value": str(row[value])} for row in rows]


def _content(result: Result) -> tuple[Columns, Rows]:
    data = result.data
    return data["columns"], data["rows"]


def _xlsx(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def _strftime(form: str) -> str:
    for token, directive in (("DD", "%d"), ("MM", "%m"), ("YYYY", "%Y"), ("YY", "%y"), ("HH", "%H"), ("mm", "%M")):
        form = form.replace(token, directive)
    return form.replace("ss", "%S")


def _text(value: Any, date_form: str | None) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if date_form is not None:
        return _dated(str(value), date_form)
    return value


def _dated(value: str, form: str) -> str:
    try:
        return datetime.fromisoformat(value).strftime(form)
    except ValueError:
        return value
