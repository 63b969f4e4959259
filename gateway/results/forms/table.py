"""The table in a stored result: its columns, and its rows as a stream, as often as they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from gateway.errors import BadRequest, UpstreamUnusable
from gateway.redash.selection import Selection
from gateway.results.forms.json_stream import JsonStream, Read
from gateway.results.forms.ordering import RowIndex

Row = Mapping[str, Any]

MOST_CELLS: Final = 10
"""Per byte of a result. Every row of a table names all columns; few columns in each of many rows cost as if it did."""

_SHOWN_NAMES: Final = 20
_SHOWN_CHARACTERS: Final = 100
_TOO_EMPTY: Final = "Too few of the result's rows have its columns; there would be too many empty cells."


Column = Mapping[str, Any]
"""A column as Redash declares it: its values may be of any other type."""


class Table:
    """What is selected of a result. Parsing errors are UpstreamUnusable, and appear while rows are read."""

    def __init__(self, read: Read, size: int, selection: Selection) -> None:
        """`size` is the number of bytes of the result's JSON.

        Raises:
            BadRequest: it has no such column.
        """
        self._read = read
        self._selection = selection
        known = dict(_columns(read))
        chosen = selection.columns if selection.columns is not None else tuple(known)
        self.declared = [_known(name, known) for name in chosen]
        self.names = list(chosen)
        self._order = [_ordered(name, known) for name in selection.order]
        self._most_rows = MOST_CELLS * size // max(1, len(self.names))
        self._index: RowIndex | None = None
        self.position = 0
        """How many bytes of rows were read by now: so batches are made of equal size."""

    def rows(self) -> Iterator[Row]:
        """Read the selected rows from the beginning, with all their members."""
        offset, limit = self._selection.offset, self._selection.limit
        end = None if limit is None else offset + limit
        for number, row in enumerate(islice(self._ordered(), offset, end), 1):
            if number > self._most_rows:
                raise UpstreamUnusable(_TOO_EMPTY)
            yield row

    def batches(self, most_rows: int, most_bytes: int) -> Iterator[list[Row]]:
        """Read the selected rows in lists of about so many rows and bytes."""
        batch: list[Row] = []
        begun = self.position
        for row in self.rows():
            batch.append(row)
            if len(batch) >= most_rows or self.position - begun >= most_bytes:
                yield batch
                batch, begun = [], self.position
        if batch:
            yield batch

    def members(self) -> Iterator[tuple[str, Any]]:
        """Read the other members of the result in their order; "data" comes without a value, where it stands."""
        stream = JsonStream(self._read)
        for name in _result(stream):
            yield (name, None) if name == "data" else (name, stream.value())

    def sort(self) -> None:
        """Put the rows in their order, once. Where nobody calls this, `rows` does."""
        if self._order and self._index is None:
            self._index = RowIndex(self._order)
            for start, end, row in self._placed():
                self._index.add(row, start, end)
            self._index.sort()

    def _ordered(self) -> Iterator[Row]:
        self.sort()
        return self._stored() if self._index is None else self._indexed(self._index)

    def _indexed(self, index: RowIndex) -> Iterator[Row]:
        for start, end in index.in_order():
            self.position += end - start
            yield json.loads(self._read(start, end - start))

    def _stored(self) -> Iterator[Row]:
        for start, end, row in self._placed():
            self.position += end - start
            yield row

    def _placed(self) -> Iterator[tuple[int, int, Row]]:
        """Yield each row with the bytes at which it begins and ends. What is no row is left out."""
        stream = JsonStream(self._read)
        for name in _data(stream):
            if name == "rows":
                for start, row in _with_starts(stream):
                    if isinstance(row, Mapping):
                        yield start, stream.position, row
                return


def _with_starts(stream: JsonStream) -> Iterator[tuple[int, object]]:
    for element in stream.elements():
        yield stream.started, element


def _result(stream: JsonStream) -> Iterator[str]:
    """Yield the names of the members of the result when their values come next."""
    for outer in stream.members():
        if outer == "query_result":
            if not stream.is_object():
                raise UpstreamUnusable("Redash's result is not an object.")
            yield from stream.members()


def _data(stream: JsonStream) -> Iterator[str]:
    for name in _result(stream):
        if name == "data" and stream.is_object():
            yield from stream.members()


def _columns(read: Read) -> Iterator[tuple[str, Column]]:
    """Yield the columns by their names."""
    stream = JsonStream(read)
    for name in _data(stream):
        if name == "rows":  # before the columns
            for _ in stream.elements():
                pass
        if name == "columns":
            for column in stream.elements():
                if isinstance(column, Mapping):
                    yield str(column.get("name")), column
            return


def _known(name: str, known: Mapping[str, Column]) -> Column:
    if name not in known:
        shown = ", ".join(map(_shown, islice(known, _SHOWN_NAMES))) + (", ..." if len(known) > _SHOWN_NAMES else "")
        raise BadRequest(f"The result has no column '{_shown(name)}'. Its columns are: {shown}.")
    return known[name]


def _shown(name: str) -> str:
    """Return a name as it stands in an error: not too long, and without halves of characters."""
    cut = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    return cut.encode("utf-8", "replace").decode()


def _ordered(name: str, known: Mapping[str, Column]) -> tuple[str, bool]:
    """Return the column that is meant, and whether it is to be descending."""
    descending = name not in known and name.startswith("-")
    name = name.removeprefix("-") if descending else name
    _known(name, known)
    return name, descending
