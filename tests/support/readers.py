"""What tools for data find in a file: its rows, one after the other, with values of Python."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any, Final

from support.libraries import library

Row = dict[str, Any]
Reader = Callable[[Path], Iterator[Row]]

_ROWS: Final = 10_000
"""So many at once become objects of Python."""


def with_pyarrow(data: Path) -> Iterator[Row]:
    """Read Parquet, Arrow, NDJSON or CSV."""
    pyarrow = library("pyarrow")
    if data.suffix == ".parquet":
        batches = library("pyarrow.parquet").ParquetFile(data).iter_batches(_ROWS)
    elif data.suffix == ".arrow":
        file = pyarrow.ipc.open_file(pyarrow.memory_map(str(data)))
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    elif data.suffix == ".ndjson":
        batches = library("pyarrow.json").read_json(data).to_batches(_ROWS)
    else:
        options = library("pyarrow.csv").ConvertOptions(strings_can_be_null=True)
        batches = library("pyarrow.csv").open_csv(data, convert_options=options)
    for batch in batches:
        yield from batch.to_pylist()


def with_polars(data: Path) -> Iterator[Row]:
    """Read Parquet, Arrow, NDJSON or CSV."""
    polars = library("polars")
    readers: dict[str, Callable[[], Any]] = {
        ".parquet": lambda: polars.read_parquet(data),
        ".arrow": lambda: polars.read_ipc(data),
        ".ndjson": lambda: polars.read_ndjson(data, infer_schema_length=None),
        ".csv": lambda: polars.read_csv(data, infer_schema_length=None),
    }
    yield from readers[data.suffix]().iter_rows(named=True)


def with_pandas(data: Path) -> Iterator[Row]:
    """Read Parquet, Arrow, NDJSON or CSV, with the types of Arrow: others have no NULL for integers."""
    pandas = library("pandas")
    types = {"dtype_backend": "pyarrow"}
    readers: dict[str, Callable[[], Any]] = {
        ".parquet": lambda: pandas.read_parquet(data, **types),
        ".arrow": lambda: pandas.read_feather(data, **types),
        ".ndjson": lambda: pandas.read_json(data, lines=True, precise_float=True, **types),
        ".csv": lambda: pandas.read_csv(data, engine="pyarrow", **types),
    }
    frame = readers[data.suffix]()
    for start in range(0, len(frame), _ROWS):
        for row in frame.iloc[start : start + _ROWS].to_dict("records"):
            yield {name: _plain(value, pandas) for name, value in row.items()}


def _plain(value: Any, pandas: Any) -> Any:
    if value is None or (not isinstance(value, str) and pandas.isna(value)):
        return None
    return value.to_pydatetime() if isinstance(value, pandas.Timestamp) else value


def with_duckdb(data: Path) -> Iterator[Row]:
    """Read Parquet, Arrow, NDJSON or CSV."""
    with library("duckdb").connect() as connection:
        connection.execute("set timezone = 'UTC'")
        if data.suffix == ".arrow":
            pyarrow = library("pyarrow")
            connection.register("file", pyarrow.ipc.open_file(pyarrow.memory_map(str(data))).read_all())
            connection.execute("select * from file")
        else:
            read = {".parquet": "read_parquet(?)", ".ndjson": "read_ndjson(?)", ".csv": "read_csv(?)"}[data.suffix]
            connection.execute(f"select * from {read}", [str(data)])
        names = [column[0] for column in connection.description]
        while rows := connection.fetchmany(_ROWS):
            for row in rows:
                yield dict(zip(names, row, strict=True))


EVERY_TOOL: Final[tuple[Reader, ...]] = (with_pyarrow, with_polars, with_pandas, with_duckdb)


def lines_of_json(data: Path) -> Iterator[Row]:
    """Read NDJSON as it is."""
    with data.open("rb") as file:
        yield from map(json.loads, file)


def cells_with_commas(data: Path) -> Iterator[Row]:
    """Read CSV as it is; every cell is a text."""
    with data.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def cells_for_excel(data: Path) -> Iterator[Row]:
    """Read CSV as Excel does where the list separator is `;`; every cell is a text."""
    with data.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter=";")


def cells_of_page(data: Path) -> Iterator[Row]:
    """Read a page with a table, each row on a line of its own; every cell is a text."""
    names: list[str] = []
    with data.open(encoding="utf-8") as file:
        for line in file:
            if cells := re.findall("<t[dh](?: [^>]*)?>(.*?)</t[dh]>", line):
                texts = list(map(unescape, cells))
                if names:
                    yield dict(zip(names, texts, strict=True))
                names = names or texts
