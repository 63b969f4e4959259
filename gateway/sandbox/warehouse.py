"""The data source that queries run on: SQLite in memory, one connection per run, interruptible. It knows nothing of
Redash's objects; the sample tables are in `sample_tables.py`.
"""

from __future__ import annotations

import itertools
import math
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .sqltext import statements

_names = itertools.count()
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?")

Rows = list[dict[str, Any]]
Records = Sequence[Sequence[Any]]
Columns = list[dict[str, Any]]


class NoDataError(Exception):
    """The statement ran, but returned no columns, which is a failure for Redash (CONTRACT 7)."""


@dataclass(frozen=True)
class Table:
    """The result of a run; `runtime` in seconds."""

    columns: Columns
    rows: Rows
    runtime: float


class Run:
    """One execution of one SQL text. `cancel` may be called from any thread, also before `execute`."""

    def __init__(
        self, warehouse: Warehouse, sql: str, source_id: int | None = None, *, sleeps: bool = True, typed: bool = True
    ) -> None:
        """`source_id` is what the SQL function data_source_id() returns: all sources have the same tables."""
        self._warehouse = warehouse
        self._sql = sql
        self._source_id = source_id
        self._sleeps = sleeps
        self._typed = typed
        self._cancelled = threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Interrupts it, or prevents its start."""
        self._cancelled.set()
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()

    def execute(self) -> Table:
        """Runs the SQL. Raises sqlite3.Error with the database's text, or NoDataError."""
        started = time.perf_counter()
        connection = self._open()
        try:
            columns, rows = self._fetch(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.close()
        return Table(columns, rows, time.perf_counter() - started)

    def _open(self) -> sqlite3.Connection:
        connection = self._warehouse.connect()
        connection.create_function("sleep", 1, self._sleep)
        connection.create_function("pg_sleep", 1, self._sleep)
        connection.create_function("data_source_id", 0, lambda: self._source_id)
        with self._lock:
            self._connection = connection
        if self._cancelled.is_set():
            connection.interrupt()
        return connection

    def _sleep(self, seconds: float) -> str:
        if self._sleeps and self._cancelled.wait(seconds):
            raise InterruptedError("interrupted")
        return ""

    def _fetch(self, connection: sqlite3.Connection) -> tuple[Columns, Rows]:
        cursor = connection.cursor()
        last = ""
        for last in statements(self._sql):
            cursor.execute(last)
        if cursor.description is None:
            raise NoDataError("Query completed but it returned no data.")
        names = _numbered([column[0] for column in cursor.description])
        records = cursor.fetchall()
        types = self._types(connection, last, records, len(names))
        columns = [{"name": name, "friendly_name": name, "type": kind} for name, kind in zip(names, types, strict=True)]
        return columns, [dict(zip(names, map(_plain, record), strict=True)) for record in records]

    def _types(self, connection: sqlite3.Connection, sql: str, records: Records, width: int) -> list[str | None]:
        """Types as in a PostgreSQL source; Redash's SQLite source has none."""
        if not self._typed:
            return [None] * width
        return _types(records, width) if records else _declared(connection, sql, width)


class Warehouse:
    """An in-memory database that many threads read at once. Writes of a run are rolled back at its end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        # A unique name in the memory file system: no shared-cache table locks between the workers.
        self._uri = f"file:/sandbox-{id(self)}-{next(_names)}?vfs=memdb"
        self._clock = clock
        self._runs = itertools.count(1)
        self._anchor: sqlite3.Connection | None = None

    def connect(self) -> sqlite3.Connection:
        """A connection with the functions now() and run_number()."""
        connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False, timeout=10)
        connection.create_function("now", 0, self._now)
        connection.create_function("run_number", 0, lambda: next(self._runs))
        return connection

    def build(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        """Calls `fill` with a connection whose changes are committed."""
        if self._anchor is None:  # the data lives as long as one connection does
            self._anchor = self.connect()
        connection = self.connect()
        with closing(connection), connection:
            fill(connection)

    def write(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Changes the data for later runs."""
        self.build(lambda connection: _discard(connection.execute(sql, values)))

    def schema(self) -> list[dict[str, object]]:
        """Tables and their columns."""
        with closing(self.connect()) as connection:
            ask = connection.execute
            names = ask("select name from sqlite_master where type = 'table' order by name").fetchall()
            return [{"name": n, "columns": [row[1] for row in ask(f"pragma table_info({n})")]} for (n,) in names]

    def close(self) -> None:
        """Deletes the data."""
        if self._anchor is not None:
            self._anchor.close()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _discard(_: object) -> None:
    return None


def _numbered(names: Iterable[str]) -> list[str]:
    """Repeated column names get a number (CONTRACT 8)."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.append(f"{name}{count}" if count else name)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _types(records: Records, width: int) -> list[str | None]:
    found: list[str | None] = [None] * width
    for index in range(width):
        value = next((record[index] for record in records if record[index] is not None), None)
        found[index] = _type(value)
    return found


def _type(value: Any) -> str | None:
    """The type of the first value; text has none."""
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str) and len(value) < 28:
        return "date" if _DATE.fullmatch(value) else "datetime" if _DATETIME.fullmatch(value) else None
    return None


def _declared(connection: sqlite3.Connection, sql: str, width: int) -> list[str | None]:
    """Without rows there are no values; a temporary view has the declared types of the columns."""
    try:
        connection.execute(f"create temp view types_of as {sql}")
        declared = [str(row[2]).lower() for row in connection.execute("pragma table_info(types_of)")]
    except sqlite3.Error:
        return [None] * width
    known = {"integer": "integer", "real": "float", "date": "date", "datetime": "datetime"}
    return [known.get(kind) for kind in declared]
