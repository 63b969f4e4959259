"""XLSX of a selection: one sheet, written as a stream. Redash itself makes the XLSX of whole results."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from gateway.errors import NotAcceptable
from gateway.results.forms.sink import Sink
from gateway.results.forms.table import Table
from gateway.results.forms.texts import BATCH_BYTES, BATCH_ROWS, json_text

MOST_ROWS: Final = 2**20 - 1
"""Of a sheet, without the row of names."""
MOST_COLUMNS: Final = 2**14
_LONGEST_CELL: Final = 32_767
_LARGEST_NUMBER: Final = 10**15
"""Excel has 15 digits; larger integers are written as text, so that none is lost."""

_MAIN: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
_TYPE: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_PARTS: Final = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="result" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}
_NOT_IN_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_RETURN: Final = {"\r": "&#13;"}
"""Every XML parser reads a carriage return as a newline, unless it is written so."""
_LIKE_ESCAPE: Final = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
"""Excel reads `_x0041_` as `A` (ECMA-376 part 1, ST_Xstring), openpyxl as it stands. Divided between two runs of the
same text, it is itself for both."""
_TEXT: Final = '<t xml:space="preserve">'
_YEAR: Final = (1980, 1, 1, 0, 0, 0)
"""The same for all files: equal tables have equal bytes."""


def write_xlsx(table: Table) -> Iterator[bytes]:
    """Write the table as a sheet.

    Raises:
        NotAcceptable: it is larger than a sheet can be.
    """
    if len(table.names) > MOST_COLUMNS:
        raise _too_large()
    sink = Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _PARTS.items():
            archive.writestr(_info(name), _HEAD + text)
        with archive.open(_info("xl/worksheets/sheet1.xml"), "w", force_zip64=True) as sheet:
            sheet.write(f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{_row(table.names)}'.encode())
            count = 0
            for batch in table.batches(BATCH_ROWS, BATCH_BYTES):
                count += len(batch)
                if count > MOST_ROWS:
                    raise _too_large()
                sheet.write("".join(_row([row.get(name) for name in table.names]) for row in batch).encode())
                yield sink.taken()
            sheet.write(b"</sheetData></worksheet>")
    yield sink.taken()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _YEAR)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _row(values: list[object] | list[str]) -> str:
    return f"<row>{''.join(map(_cell, values))}</row>"


def _cell(value: object) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER:  # NaN is not
        return f"<c><v>{value}</v></c>"
    text = value if isinstance(value, str) else json_text(value)
    text = escape(_NOT_IN_XML.sub("\ufffd", text[:_LONGEST_CELL]), _RETURN)
    if "_x" in text:
        text = _LIKE_ESCAPE.sub(f"_</t></r><r>{_TEXT}", text)
    runs = f"{_TEXT}{text}</t>" if "</t>" not in text else f"<r>{_TEXT}{text}</t></r>"
    return f'<c t="inlineStr"><is>{runs}</is></c>'


def _too_large() -> NotAcceptable:
    return NotAcceptable(
        f"A sheet has at most {MOST_ROWS:,} rows and {MOST_COLUMNS:,} columns; select some with limit and columns."
    )
