"""Tables as text: JSON, NDJSON, CSV, TSV and HTML, piece by piece."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html import escape
from typing import Any, Final

import msgspec

from gateway.redash.renderings import DELIMITERS, DateFormats, render_pieces
from gateway.redash.selection import Selection
from gateway.results.forms.table import Row, Table

BATCH_ROWS: Final = 2_000
BATCH_BYTES: Final = 1 << 18

_BOM: Final = b"\xef\xbb\xbf"

PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
"""The `Content-Security-Policy` of a page: nothing in it runs, loads or is sent, whatever a cell contains."""

_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:1rem}table{border-collapse:collapse}"
    "th,td{border:1px solid #8888;padding:.2rem .5rem;text-align:left;white-space:pre-wrap}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
)


def json_text(value: object) -> str:
    """Return a value as compact JSON, as it stands in a cell."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_json(table: Table, selection: Selection) -> Iterator[bytes]:
    """Write the result as Redash has it, with the selected columns and rows."""
    yield b'{"query_result": {'
    separator = ""
    for name, value in table.members():
        yield f"{separator}{json.dumps(name)}: ".encode()
        separator = ", "
        if name == "data":
            yield from _json_data(table, all_members=selection.columns is None)
        else:
            yield json.dumps(value).encode()
    yield b"}}"


def _json_data(table: Table, *, all_members: bool) -> Iterator[bytes]:
    columns = json.dumps(table.declared)
    yield f'{{"columns": {columns}, "rows": ['.encode()
    separator = ""
    for batch in table.batches(BATCH_ROWS, BATCH_BYTES):
        rows = batch if all_members else [_part(row, table.names) for row in batch]
        yield f"{separator}{json.dumps(rows)[1:-1]}".encode()
        separator = ", "
    yield b"]}"


def _part(row: Row, names: list[str]) -> Row:
    return {name: row[name] for name in names if name in row}


def write_ndjson(table: Table) -> Iterator[bytes]:
    """Write one object a line; each has all columns. NaN, which JSON does not have, is null."""
    for batch in table.batches(BATCH_ROWS, BATCH_BYTES):
        rows = [{name: row.get(name) for name in table.names} for row in batch]
        try:
            yield msgspec.json.Encoder().encode_lines(rows)
        except (UnicodeEncodeError, OverflowError):  # half a character, or an integer of more than 64 bits
            yield "".join(f"{json_text(_plain(row))}\n" for row in rows).encode("utf-8", "replace")


def _plain(row: Row) -> Row:
    """Replace what JSON does not have by null, in the values themselves: they may be nested too deeply for calls."""
    left: list[Any] = [row]
    while left:
        outer = left.pop()
        for place, value in outer.items() if isinstance(outer, dict) else enumerate(outer):
            if isinstance(value, float) and not math.isfinite(value):
                outer[place] = None
            elif isinstance(value, dict | list):
                left.append(value)
    return row


def write_csv(table: Table, form: str, selection: Selection, formats: DateFormats) -> Iterator[bytes]:
    """Write CSV or TSV as Redash does, or as Excel reads it."""
    excel = selection.excel
    if selection.bom if selection.bom is not None else excel:
        yield _BOM
    delimiter = selection.delimiter or (";" if excel else DELIMITERS[form])
    yield from render_pieces(table.declared, table.rows(), delimiter, None if excel else formats)


def write_html(table: Table, title: str) -> Iterator[bytes]:
    """Write a page with a table, every text of it escaped."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in table.names)
    yield _encoded(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
    )
    for batch in table.batches(BATCH_ROWS, BATCH_BYTES):
        yield _encoded("".join(f"<tr>{''.join(_cell(row.get(name)) for name in table.names)}</tr>\n" for row in batch))
    yield b"</tbody></table></body></html>\n"


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{value}</td>'
    return f"<td>{escape(json_text(value))}</td>"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
