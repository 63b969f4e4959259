"""What is to be made of a stored result, as one value, and its pieces: the same here and in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.errors import UpstreamUnusable
from gateway.redash.downloads import ResultForm
from gateway.redash.renderings import DateFormats
from gateway.redash.selection import Selection
from gateway.results.forms.json_stream import Read
from gateway.results.forms.table import Table
from gateway.results.forms.texts import write_csv, write_html, write_json, write_ndjson

COLUMNAR: Final = frozenset({"parquet", "arrow"})
"""They are made with pyarrow, which takes 50 MB: only in a process that ends."""

_TOO_DEEP: Final = "A value of Redash's result is nested too deeply for this form; request JSON."


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One form of one result."""

    form: ResultForm
    selection: Selection
    formats: DateFormats
    title: str = ""
    size: int = 0
    """Of the result's JSON."""

    def pieces(self, read: Read) -> Iterator[bytes]:
        """Make it from the JSON, as far as it is wanted.

        Raises:
            BadRequest: the result has no such column.
            NotAcceptable: it is too large for this form or order.
            UpstreamUnusable: its JSON is broken, nested too deeply, or mostly empty.
        """
        try:
            yield from self._begun(read)
        except RecursionError:
            raise UpstreamUnusable(_TOO_DEEP) from None

    def _begun(self, read: Read) -> Iterator[bytes]:
        table = Table(read, self.size, self.selection)
        match self.form:
            case "json":
                return write_json(table, self.selection)
            case "ndjson":
                return write_ndjson(table)
            case "csv" | "tsv":
                return write_csv(table, self.form, self.selection, self.formats)
            case "html":
                return write_html(table, self.title)
            case "xlsx":
                from gateway.results.forms.workbook import write_xlsx  # noqa: PLC0415 - few processes need it

                return write_xlsx(table)
            case "parquet" | "arrow":
                table.sort()  # before pyarrow takes its memory
                from gateway.results.forms.columnar import write_columnar  # noqa: PLC0415 - needs pyarrow

                return write_columnar(table, self.form)


def reader_of(file: int) -> Read:
    """Return what reads an open file by its descriptor."""
    return lambda start, count: os.pread(file, count, start)


def reader_in(data: bytes) -> Read:
    """Return what reads bytes in memory."""
    return lambda start, count: data[start : start + count]
