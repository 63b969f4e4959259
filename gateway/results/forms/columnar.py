"""Parquet and Arrow files, with pyarrow: two passes over the rows, one for the types and one to write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from gateway.results.forms.kinds import Kind, as_text, kinds_of, microseconds
from gateway.results.forms.sink import Sink
from gateway.results.forms.table import Row, Table

_BATCH_ROWS: Final = 2_000
_BATCH_BYTES: Final = 1 << 18
"""As objects, rows take several times as much."""
_GROUP_ROWS: Final = 1 << 16
_GROUP_BYTES: Final = 4 << 20
"""Of a group in Parquet, or of a batch in an Arrow file: read at once by what reads the file."""

_TYPES: Final[dict[Kind, Any]] = {
    "boolean": pa.bool_(),
    "int64": pa.int64(),
    "decimal": pa.decimal128(38, 0),
    "float": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "text": pa.string(),
}


def write_columnar(table: Table, form: str) -> Iterator[bytes]:
    """Write a Parquet file or an Arrow file (IPC)."""
    pa.set_cpu_count(1)
    kinds = kinds_of(table.batches(_BATCH_ROWS, _BATCH_BYTES), table.names)
    schema = pa.schema([(_name(name), _TYPES[kind]) for name, kind in zip(table.names, kinds, strict=True)])
    sink = Sink()
    with _writer(form, sink, schema) as writer:
        for group in _groups(table, kinds, schema):
            writer.write_table(group, len(group))
            yield sink.taken()
    yield sink.taken()


def _writer(form: str, sink: Sink, schema: Any) -> Any:
    if form == "parquet":
        return pq.ParquetWriter(sink, schema, compression="snappy")
    return pa.ipc.new_file(sink, schema)


def _groups(table: Table, kinds: list[Kind], schema: Any) -> Iterator[Any]:
    """Yield tables of about a group: as columns, the rows take little memory."""
    gathered: list[Any] = []
    rows = size = 0
    for batch in table.batches(_BATCH_ROWS, _BATCH_BYTES):
        made = pa.record_batch([_array(batch, n, k) for n, k in zip(table.names, kinds, strict=True)], schema=schema)
        gathered.append(made)
        rows, size = rows + len(batch), size + made.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.Table.from_batches(gathered, schema)
            gathered, rows, size = [], 0, 0
    if gathered:
        yield pa.Table.from_batches(gathered, schema)


def _array(batch: list[Row], name: str, kind: Kind) -> Any:
    values = [row.get(name) for row in batch]
    if kind == "text":
        values = [as_text(value) for value in values]
    elif kind == "timestamp":
        values = [microseconds(value) for value in values]
    elif kind == "float":
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, _TYPES[kind])


def _name(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
