"""Forms of a large result through a running gateway: `python -m bench.forms --rows 1000000`.

The gateway gets the result from the fixed upstream once, and makes each form from what it has stored. Tools for data
read each file, and every row is compared with that of Redash's JSON. The exit status is 1 if one is another, or if the
gateway and the processes that it starts take more memory of their own than 64 MB above that at the start, or more than
that and `cache.memory` with the code of libraries. These results are too large for `cache.memory` itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

from support.readers import (
    EVERY_TOOL,
    Reader,
    Row,
    cells_for_excel,
    cells_of_page,
    cells_with_commas,
    lines_of_json,
    with_pyarrow,
)

from bench.downloads import Download, compressed, in_ranges, whole
from bench.processes import MemoryWatch
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import FILE

CACHE_MB: Final = 64
CACHE: Final = f'memory = "{CACHE_MB}MB"\nmax_entry = "4GB"\ndisk = "16GB"'
MOST_MB: Final = 64

CITIES: Final = 1000
NOT_IN_TEXTS: Final = ("mixed", "tags", "serial")
"""Columns that not every tool can read from texts: mixed and nested ones, and integers of more than 64 bits."""


def values(n: int) -> Row:
    """Return a row: a column of each type, with NULLs, mixed and nested values."""
    return {
        "id": n,
        "customer_id": None if n % 5 == 0 else n * 7919 % 100_003,
        "serial": n * 10**20,
        "amount": n * 31_337 % 1_000_000 / 100,
        "paid": n % 2 == 0,
        "status": ("new", "paid", "shipped")[n % 3],
        "ordered_on": f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}",
        "placed_at": f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T10:{n % 60:02}:00Z",
        "city": f"Köln {n % CITIES}",
        "note": f"<{n}>" if n % 3 == 0 else None,
        "mixed": (n, "text", True, None)[n % 4],
        "tags": [n % 7, "a"] if n % 10 == 0 else None,
        "nothing": None,
    }


NAMES: Final = tuple(values(0))
DECLARED: Final = {"id": "integer", "amount": "float", "ordered_on": "date", "placed_at": "datetime"}
"""What Redash says that columns are; of the others it says nothing."""
PLAIN: Final = tuple(name for name in NAMES if name not in NOT_IN_TEXTS)


def typed(row: Row) -> Row:
    """Return what a row is in Parquet and Arrow (docs/forms.md, "Types")."""
    texts = {name: _as_text(row[name]) for name in ("mixed", "tags")}
    placed_at = datetime.fromisoformat(row["placed_at"]).astimezone(UTC)
    return {**row, **texts, "serial": Decimal(row["serial"]), "placed_at": placed_at}


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(row: Row) -> Row:
    """Return the plain columns of a row."""
    return {name: row[name] for name in PLAIN}


def with_moments(row: Row) -> Row:
    """Return a row with dates and times as moments in UTC: each tool finds others of them in texts."""
    return {**row, **{name: _moment(row[name]) for name in ("ordered_on", "placed_at")}}


def _moment(value: str | date) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    found = found if isinstance(found, datetime) else datetime.combine(found, datetime.min.time())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def cells(row: Row) -> Row:
    """Return a row as texts in a page; NULL is an empty one."""
    return {name: _as_text(value) or "" for name, value in row.items()}


def cells_of_csv(row: Row) -> Row:
    """Return the cells of a row in Redash's CSV."""
    moments = {
        "ordered_on": datetime.fromisoformat(row["ordered_on"]).strftime("%d/%m/%y"),
        "placed_at": datetime.fromisoformat(row["placed_at"]).strftime("%d/%m/%y %H:%M"),
    }
    return {name: "" if value is None else str(value) for name, value in {**row, **moments}.items()}


def cells_of_excel(row: Row) -> Row:
    """Return the cells of a row in CSV for Excel."""
    moments = {name: row[name].replace("T", " ").removesuffix("Z") for name in ("ordered_on", "placed_at")}
    return {**cells_of_csv(row), **moments}


def by_city(n: int) -> tuple[str, float]:
    """Return what a row is sorted by: the city, then descending the amount."""
    row = values(n)
    return row["city"], -row["amount"]


@dataclass(frozen=True)
class Case:
    """A form, the arguments that go with it, how it is downloaded, what reads it, and which rows it must find."""

    title: str
    form: str
    arguments: str = ""
    readers: tuple[Reader, ...] = ()
    expected: Callable[[Row], Row] = dict
    order: Callable[[int], Any] | None = None
    """Sorts the numbers of the rows as the gateway is asked to."""
    part: tuple[int, int | None] = (0, None)
    """Which of them are selected: from, and up to."""
    download: Download = whole

    @property
    def path(self) -> str:
        """Where it is requested."""
        more = f"&{self.arguments}" if self.arguments else ""
        return f"/api/queries/{FILE}/results.{self.form}?p_n=1&max_age=86400{more}"

    def rows(self, count: int) -> list[int]:
        """Return the numbers of the rows that it must find, of so many."""
        return sorted(range(count), key=self.order or (lambda n: n))[slice(*self.part)]


def by_amount(n: int) -> float:
    """Return what a row is sorted by: descending the amount."""
    return -float(values(n)["amount"])


_PLAIN: Final = f"columns={','.join(PLAIN)}"
_CITY: Final = "order=city,-amount"
_COMMAS: Final = "csv=excel&csv_delimiter=comma"
CASES: Final = (
    Case("JSON", "json"),
    Case("NDJSON", "ndjson", "", (lines_of_json,)),
    Case("NDJSON, `limit=`, gzip", "ndjson", "limit=50000", (lines_of_json,), part=(0, 50_000), download=compressed),
    Case("NDJSON, `columns=`", "ndjson", _PLAIN, EVERY_TOOL, plain),
    Case("NDJSON, `order=city,-amount`", "ndjson", _CITY, (lines_of_json,), order=by_city),
    Case("CSV", "csv", "csv_delimiter=comma", (cells_with_commas,), cells_of_csv),
    Case("CSV, `csv=excel`", "csv", "csv=excel", (cells_for_excel,), cells_of_excel),
    Case("CSV, `csv=excel`, commas, `columns=`", "csv", f"{_COMMAS}&{_PLAIN}", EVERY_TOOL, plain),
    Case("HTML", "html", "", (cells_of_page,), cells),
    Case("XLSX, `columns=`", "xlsx", _PLAIN),
    Case("Parquet", "parquet", "", EVERY_TOOL, typed),
    Case("Parquet, in ranges", "parquet", "", (with_pyarrow,), typed, download=in_ranges),
    Case("Parquet, `order=-amount`", "parquet", "order=-amount", EVERY_TOOL, typed, by_amount),
    Case(
        "Parquet, `order=-amount`, `offset=`, `limit=`", "parquet", "order=-amount&offset=1000&limit=5000",
        EVERY_TOOL, typed, by_amount, (1000, 6000),
    ),
    Case("Arrow", "arrow", "", EVERY_TOOL, typed),
)  # fmt: skip


def write(path: Path, count: int) -> None:
    """Write the data of a result with so many rows."""
    with path.open("w") as file:
        columns = [{"name": name, "friendly_name": name, "type": DECLARED.get(name)} for name in NAMES]
        file.write(f'{{"columns": {json.dumps(columns)}, "rows": [')
        file.writelines(("" if n == 0 else ", ") + json.dumps(values(n)) for n in range(count))
        file.write("]}")


def differences(case: Case, file: Path, count: int) -> Iterator[str]:
    """Yield what a tool reads otherwise, and where."""
    numbers = case.rows(count)
    same = with_moments if case.expected is plain else dict
    for reader in case.readers:
        found = reader(file)
        for n, row in zip(numbers, found, strict=False):
            if same(row) != (wanted := same(case.expected(values(n)))):
                yield f"{case.title}, {reader.__name__}, row {n}: {row}, not {wanted}"
                break
        else:
            if list(islice(found, 1)) or sum(1 for _ in reader(file)) != len(numbers):
                yield f"{case.title}, {reader.__name__}: not {len(numbers)} rows"


def measure(case: Case, count: int, server: Server, watch: MemoryWatch, directory: Path) -> list[str]:
    """Make, read and compare a form; print its line of the table, and return what is wrong."""
    file = directory / f"rows.{case.form}"
    begun = time.monotonic()
    with watch.watching():
        case.download(server, case.path, file)
    seconds, most = time.monotonic() - begun, watch.most
    faults = list(differences(case, file, count))
    if most.own > MOST_MB or most.all > MOST_MB + CACHE_MB:
        faults.append(f"{case.title}: {most.own:.0f} MB, {most.all:.0f} MB with the code of libraries")
    read = ", ".join(reader.__name__.replace("_", " ").removeprefix("with ") for reader in case.readers)
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    print(f"| {case.title} | {size} | {seconds:.1f} | {most.own:.0f} MB | {most.all:.0f} MB | {read} |", flush=True)
    return faults


def main() -> int:
    """Make, read and compare all forms; print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    count = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        data = directory / "data.json"
        write(data, count)
        print(f"{count:,} rows of {len(NAMES)} columns, {data.stat().st_size / 1e6:.0f} MB of JSON\n")
        print("| form | size | seconds | memory | with code | the same table in |\n|---|---|---|---|---|---|")
        with fixed_upstream(directory, data) as upstream, gateway(directory, upstream, cache=CACHE) as server:
            watch = MemoryWatch(server.running.pid)
            faults = [fault for case in CASES for fault in measure(case, count, server, watch, directory)]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
