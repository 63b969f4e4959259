"""The types that forms give to columns, and that every reader finds the rows of Redash's JSON in each of them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tracemalloc
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.libraries import library
from support.readers import EVERY_TOOL

from gateway.errors import BadRequest, UpstreamUnusable
from gateway.redash.renderings import DateFormats
from gateway.redash.selection import Selection
from gateway.results.forms.job import Job, reader_in, reader_of
from gateway.results.forms.json_stream import JsonStream
from gateway.results.forms.kinds import kinds_of

Rows = list[dict[str, Any]]


def made(form: Any, rows: Rows, names: list[str] | None = None, **selection: Any) -> bytes:
    """The form of a result with these rows; the rows stand before the columns, as old versions write them."""
    names = list(dict.fromkeys(name for row in rows for name in row)) if names is None else names
    data = {"rows": rows, "columns": [{"name": name, "type": None} for name in names]}
    body = json.dumps({"query_result": {"id": 7, "data": data, "retrieved_at": "2026-11-26T10:00:00Z"}}).encode()
    job = Job(form=form, selection=Selection(**selection), formats=DateFormats(), title="<7>", size=len(body) + 10_000)
    return b"".join(job.pieces(reader_in(body)))


TIMES = st.builds(
    lambda moment, zone: moment.isoformat() + zone,
    st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)),
    st.sampled_from(["Z", "+00:00", "+02:00", "-0930"]),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
NESTED = st.one_of(st.lists(st.integers(0, 9), max_size=3), st.dictionaries(TEXTS, st.booleans(), max_size=2))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "decimal": st.integers(2**63, 10**38 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "timestamp": TIMES,
    "text": TEXTS,
    "huge": st.integers(10**38, 10**45),
    "nested": NESTED,
    "nothing": st.none(),
    "mixed": st.one_of(st.booleans(), TEXTS, NESTED, st.floats(allow_nan=False, allow_infinity=False)),
}
"""Values of a column by what they are; each column may have NULLs, too."""

COLUMNS = {f"{name} ü": st.one_of(st.none(), values) for name, values in VALUES.items()}
TABLES = st.lists(st.fixed_dictionaries(COLUMNS), max_size=6)


def expected(value: Any, kind: str) -> Any:
    """What a value of the JSON is in a column of that type."""
    if value is None:
        return None
    if kind == "timestamp":
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind == "decimal":
        return Decimal(value)
    if kind == "float":
        return float(value)
    if kind == "text" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value


@settings(max_examples=15)
@given(rows=TABLES)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_every_reader_finds_the_same_table(form: str, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    library("pyarrow")
    names = list(COLUMNS)
    kinds = dict(zip(names, kinds_of([rows], names), strict=True))
    wanted = [{name: expected(row[name], kinds[name]) for name in names} for row in rows]
    data = tmp_path_factory.mktemp("forms") / f"rows.{form}"
    data.write_bytes(made(form, rows, names))
    for read in EVERY_TOOL:
        assert list(read(data)) == wanted, read.__name__


@settings(max_examples=40)
@given(rows=TABLES)
def test_text_forms_have_the_same_table(rows: Rows) -> None:
    names = list(COLUMNS)
    assert json.loads(made("json", rows, names, limit=10))["query_result"]["data"]["rows"] == rows
    assert [json.loads(line) for line in made("ndjson", rows, names).splitlines()] == rows
    wanted = [[shown(row[name]) for name in names] for row in rows]
    assert [list(map(_unspaced, cells)) for cells in cells_of_page(made("html", rows, names))] == [
        list(map(_unspaced, cells)) for cells in wanted
    ]
    lines = list(csv.reader(io.StringIO(made("csv", rows, names, excel=True).decode("utf-8-sig")), delimiter=";"))
    assert lines[0] == names
    assert [[cell == "" for cell in line] for line in lines[1:]] == [[r[n] in (None, "") for n in names] for r in rows]


@pytest.mark.parametrize("depth", [100, 490, 700, 900, 960, 985, 5_000])
@pytest.mark.parametrize("form", ["ndjson", "json", "csv", "html", "xlsx", "parquet", "arrow"])
def test_deeply_nested_values_are_written_or_refused(form: str, depth: int) -> None:
    # Python 3.11 parses and writes nearly 1,000 levels. Half a character and NaN make NDJSON take its slower way.
    value = '{"a":[' * (depth // 2) + '"\\ud800",NaN' + "]}" * (depth // 2)
    body = f'{{"query_result": {{"data": {{"columns": [{{"name": "c"}}], "rows": [{{"c": {value}}}]}}}}}}'.encode()
    job = Job(form=form, selection=Selection(), formats=DateFormats(), size=len(body))  # type: ignore[arg-type]
    try:
        written = b"".join(job.pieces(reader_in(body)))
    except UpstreamUnusable:
        assert depth > 900
    else:
        if form == "ndjson":
            assert written.rstrip() == b'{"c":' + value.replace("\\ud800", "?").replace("NaN", "null").encode() + b"}"


def test_ndjson_is_read_by_every_tool(tmp_path: Path) -> None:
    rows = [{"i": n, "f": n / 7, "t": f"é {n}\n", "b": n % 2 == 0, "n": None if n else "x"} for n in range(50)]
    data = tmp_path / "rows.ndjson"
    data.write_bytes(made("ndjson", rows))
    for read in EVERY_TOOL:
        assert list(read(data)) == rows, read.__name__


def shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unspaced(text: str) -> str:
    return text.replace("\r", "\n")


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def cells_of_page(page: bytes) -> list[list[str]]:
    parser = _Cells()
    parser.feed(page.decode())
    parser.close()
    return [row for row in parser.rows if row]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], "text"),
        ([None, None], "text"),
        ([1, None, -(2**63)], "int64"),
        ([2**63], "decimal"),
        ([10**38 - 1, -(10**38) + 1], "decimal"),
        ([10**38], "text"),
        ([True, None], "boolean"),
        ([True, 1], "text"),
        ([1, 1.5], "float"),
        ([2**53 + 1, 1.5], "text"),
        ([math.nan, math.inf], "float"),
        ([1.5, "a"], "text"),
        ([[1], {"a": 1}], "text"),
        (["2026-11-26T10:00:00Z", None, "2026-11-26 10:00:00.123456+01:00"], "timestamp"),
        (["2026-11-26T10:00:00Z", "2026-11-26T10:00:00"], "text"),  # one has no zone
        (["2026-11-26T10:00:00.1234567Z"], "text"),  # a digit would be lost
        (["2026-13-26T10:00:00Z"], "text"),
        (["0001-01-01T00:00:00+02:00"], "timestamp"),
        (["9999-12-31T23:59:59-02:00"], "timestamp"),
        (["2026-11-26"], "text"),
        (["\u0662026-11-26T10:00:00Z"], "text"),
    ],
)
def test_the_type_of_a_column_is_decided_from_all_its_values(values: list[Any], kind: str) -> None:
    rows = [{"a": value} for value in values]
    assert kinds_of([rows[:1], rows[1:]], ["a"]) == [kind]


def test_half_a_character_and_odd_numbers_break_no_form() -> None:
    library("pyarrow")
    rows = [{"a": "\ud800é", "b": math.nan, "c": 10**40}, {"a": None, "b": -math.inf, "c": 1}]
    for form in ("json", "ndjson", "csv", "html", "xlsx", "parquet", "arrow"):
        assert made(form, rows, limit=5), form
    assert json.loads(made("ndjson", rows).splitlines()[0]) == {"a": "?é", "b": None, "c": 10**40}


def test_numbers_beyond_floating_point_break_no_form() -> None:
    library("pyarrow")
    rows = [{"a": 10**400, "b": -(10**400)}, {"a": 1, "b": 1.5}]
    for form in ("json", "ndjson", "csv", "html", "xlsx", "parquet", "arrow"):
        assert made(form, rows, order=("a", "-b")), form
    assert sheet(made("xlsx", rows)) == [["a", "b"], [str(10**400), str(-(10**400))], ["1", "1.5"]]


def test_the_error_of_an_unknown_column_can_be_sent() -> None:
    """Names are the caller's and Redash's: of any length, and with halves of characters."""
    with pytest.raises(BadRequest) as raised:
        made("csv", [{"\ud800": 1, "b" * 10_000: 2}], columns=("n" * 10_000,))
    assert len(raised.value.detail.encode()) < 500


def test_a_page_shows_texts_and_runs_none() -> None:
    evil = "<script>alert(1)</script>\"'&"
    page = made("html", [{evil: evil}])
    assert b"<script" not in page
    assert cells_of_page(page) == [[evil]]


def sheet(data: bytes) -> list[list[Any]]:
    """The cells of a workbook, as text."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        root = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    return [["".join(cell.itertext()) for cell in row] for row in root.iter() if row.tag.endswith("}row")]


def test_a_workbook_has_the_selected_cells() -> None:
    rows = [
        {"n": 1, "t": "a<b\x00", "b": True, "f": 1.5, "x": 10**20},
        {"n": None, "t": "", "b": None, "f": -1.0, "x": 1},
    ]
    assert sheet(made("xlsx", rows, columns=("t", "n", "b", "f", "x"))) == [
        ["t", "n", "b", "f", "x"],
        ["a<b\ufffd", "1", "1", "1.5", str(10**20)],
        ["", "", "", "-1.0", "1"],
    ]


@pytest.mark.parametrize(
    "text", ["a\rb\r\n", "_x0041_", "_x000D_", "_x005F_x0041_", "_x0041_x0042_<b>", "__x00e9__", "_x41_", " x _X0041_ "]
)
def test_a_workbook_has_texts_unchanged_for_every_reader(text: str) -> None:
    # Excel reads `_xHHHH_` in an element as a character (ECMA-376, ST_Xstring); openpyxl and XML itself do not.
    with zipfile.ZipFile(io.BytesIO(made("xlsx", [{text: text}]))) as archive:
        root = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    for cell in (cell for cell in root.iter() if cell.tag.endswith("}c")):
        parts = ["".join(element.itertext()) for element in cell.iter() if element.tag.endswith("}t")]
        assert "".join(parts) == text
        assert "".join(re.sub("_x([0-9A-Fa-f]{4})_", lambda at: chr(int(at[1], 16)), part) for part in parts) == text


def test_a_text_in_a_workbook_ends_where_excel_ends_it() -> None:
    # As in Redash's own XLSX; docs/forms.md says so.
    assert sheet(made("xlsx", [{"t": "ab" * 20_000}]))[1] == ["ab" * 16_383 + "a"]


KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.integers(2**53, 2**70),
    st.sampled_from([10**400, -(10**400)]),
    TEXTS,
    NESTED,
)


def rank(value: Any) -> tuple[Any, ...]:
    """The order as the page about forms describes it."""
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    return (3, value.encode()) if isinstance(value, str) else (4, json.dumps(value, sort_keys=True).encode())


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


@settings(max_examples=60)
@given(values=st.lists(KEYS, max_size=12), descending=st.booleans())
def test_the_order_is_that_of_the_values_with_null_last(values: list[Any], descending: bool) -> None:
    rows = [{"n": number, "v": value} for number, value in enumerate(values)]
    found = json.loads(made("json", rows, ["n", "v"], order=("-v" if descending else "v",)))
    numbers = [row["n"] for row in found["query_result"]["data"]["rows"]]
    known = sorted((n for n, v in enumerate(values) if not is_null(v)), key=lambda n: rank(values[n]))
    if descending:  # rows with equal keys stay as they were
        known = sorted(known, key=lambda n: rank(values[n]), reverse=True)
    assert numbers == [*known, *(n for n, v in enumerate(values) if is_null(v))]


def test_several_keys_and_ranges() -> None:
    rows = [{"a": n % 3, "b": f"{n:03}"} for n in range(200_000 // 100)]
    found = json.loads(made("json", rows, order=("-a", "b"), offset=2, limit=3, columns=("b",)))
    wanted = sorted(rows, key=lambda row: (-row["a"], row["b"]))[2:5]
    assert found["query_result"]["data"] == {
        "columns": [{"name": "b", "type": None}],
        "rows": [{"b": r["b"]} for r in wanted],
    }


@settings(max_examples=40)
@given(
    value=st.dictionaries(TEXTS, st.one_of(KEYS.filter(lambda value: not is_null(value)), NESTED), max_size=4),
    blanks=st.sampled_from([None, 1]),
    piece=st.integers(4, 9),
)
def test_json_is_read_in_pieces_of_any_size(value: Any, blanks: int | None, piece: int) -> None:
    data = json.dumps({"query_result": {"x": value, "y": [value, 12]}}, indent=blanks, ensure_ascii=False).encode()
    stream = JsonStream(lambda start, count: data[start : start + min(count, piece)])
    found: dict[str, Any] = {}
    for outer in stream.members():
        assert outer == "query_result"
        for name in stream.members():
            found[name] = stream.value() if name == "x" else list(stream.elements())
    assert found == {"x": value, "y": [value, 12]}
    assert stream.position == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"query_result": {"data": {"columns": [1',
        b'{"query_result": \xff}',
        b"[1]",
        b'{"query_result": 12}',
        b'{"query_result": {"data": {"columns": [],, "rows": []}}}',
        b'{"query_result": {"data": ' + b"[" * 100_000,
        b'{"query_result": {"x": ' + b"1" * 5_000,
    ],
)
def test_broken_json_is_an_error_and_no_table(data: bytes) -> None:
    job = Job(form="ndjson", selection=Selection(), formats=DateFormats(), size=len(data))
    with pytest.raises(UpstreamUnusable):
        b"".join(job.pieces(reader_in(data)))


@pytest.mark.parametrize(
    ("form", "selection"),
    [
        ("ndjson", Selection()),
        ("xlsx", Selection(limit=10**6)),
        ("parquet", Selection()),
        ("json", Selection(order=("-b",), columns=("b",))),
    ],
)
def test_a_form_of_a_large_result_takes_little_memory(form: Any, selection: Selection, tmp_path: Path) -> None:
    # A batch, one group of Parquet or the index of an order: not the rows, however many they are.
    library("pyarrow")
    path = tmp_path / "result.json"
    row = ", ".join(json.dumps({"a": "é" * 60, "b": number}) for number in range(250))
    path.write_text(
        f'{{"query_result": {{"data": {{"columns": [{{"name": "a"}}, {{"name": "b"}}], "rows": [{row}'
        + f", {row}" * 39
        + "]}}}"
    )
    job = Job(form=form, selection=selection, formats=DateFormats(), size=path.stat().st_size)
    made(form, [{"a": "é", "b": 1}], order=selection.order)  # libraries are loaded
    with path.open("rb") as file:
        tracemalloc.start()
        size = sum(map(len, job.pieces(reader_of(file.fileno()))))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert size > 1_000
    assert path.stat().st_size > 3_600_000
    assert most < 2_500_000


def test_few_cells_in_each_of_many_rows_cost_no_more_than_they_weigh() -> None:
    names = [f"c{number}" for number in range(2_000)]
    with pytest.raises(UpstreamUnusable):
        made("ndjson", [{"c1": 1}] * 20_000, names)
