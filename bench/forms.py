"""Forms of a large result through a running gateway: `python -m bench.forms --rows 1000000`.

The gateway gets the result from the fixed upstream once, and makes each form from what it has stored. Tools for data
read each file, and every row is compared with that of Redash's JSON. The exit status is 1 if one is another, or if the
gateway and the processes that it starts take more than 64 MB above that at the start. `cache.memory` may come to that,
but these results are too large for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

from support.readers import EVERY_TOOL, Reader, Row, cells_for_excel, cells_of_page, lines_of_json

from bench.processes import Running, family
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import FILE

CACHE: Final = 'memory = "64MB"\nmax_entry = "4GB"\ndisk = "16GB"'
MOST_MB: Final = 64

CITIES: Final = 1000
PLAIN: Final = ("id", "amount", "status", "note")
"""Columns whose types every reader of texts finds by itself."""


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
ALL_BUT_MIXED: Final = tuple(name for name in NAMES if name not in ("mixed", "tags"))


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


def cells(row: Row) -> Row:
    """Return a row as texts; NULL is an empty one."""
    return {name: _as_text(value) or "" for name, value in row.items()}


def excel_cells(row: Row) -> Row:
    """Return the cells of a row in CSV for Excel."""
    shown = {**row, "placed_at": row["placed_at"].replace("T", " ").removesuffix("Z")}
    return {name: "" if shown[name] is None else str(shown[name]) for name in ALL_BUT_MIXED}


def by_city(n: int) -> tuple[str, float]:
    """Return what a row is sorted by: the city, then descending the amount."""
    row = values(n)
    return row["city"], -row["amount"]


@dataclass(frozen=True)
class Case:
    """A form, the arguments that go with it, what reads it, and which rows it must find."""

    title: str
    form: str
    arguments: str = ""
    readers: tuple[Reader, ...] = ()
    expected: Callable[[Row], Row] = dict
    order: Callable[[int], Any] | None = None
    """Sorts the numbers of the rows as the gateway is asked to."""

    @property
    def path(self) -> str:
        """Where it is requested."""
        more = f"&{self.arguments}" if self.arguments else ""
        return f"/api/queries/{FILE}/results.{self.form}?p_n=1&max_age=86400{more}"


_PLAIN: Final = f"columns={','.join(PLAIN)}"
_CITY: Final = "order=city,-amount"
CASES: Final = (
    Case("JSON", "json"),
    Case("NDJSON", "ndjson", "", (lines_of_json,)),
    Case("NDJSON, four columns", "ndjson", _PLAIN, EVERY_TOOL, plain),
    Case("NDJSON, `order=city,-amount`", "ndjson", _CITY, (lines_of_json,), order=by_city),
    Case("CSV, four columns", "csv", f"{_PLAIN}&csv_delimiter=comma", EVERY_TOOL, plain),
    Case("CSV for Excel", "csv", f"columns={','.join(ALL_BUT_MIXED)}&csv=excel", (cells_for_excel,), excel_cells),
    Case("HTML", "html", _PLAIN, (cells_of_page,), lambda row: cells(plain(row))),
    Case("Parquet", "parquet", "", EVERY_TOOL, typed),
    Case("Arrow", "arrow", "", EVERY_TOOL, typed),
    Case("Parquet, `order=-amount`", "parquet", "order=-amount", EVERY_TOOL, typed, lambda n: -values(n)["amount"]),
)


def write(path: Path, count: int) -> None:
    """Write the data of a result with so many rows."""
    with path.open("w") as file:
        columns = [{"name": name, "friendly_name": name, "type": DECLARED.get(name)} for name in NAMES]
        file.write(f'{{"columns": {json.dumps(columns)}, "rows": [')
        file.writelines(("" if n == 0 else ", ") + json.dumps(values(n)) for n in range(count))
        file.write("]}")


class Watch:
    """The most memory of their own that a process and all its descendants have had."""

    def __init__(self, watched: Running) -> None:
        self._watched = watched
        self._ended = threading.Event()
        self.most_mb = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Measure every few milliseconds."""
        self.most_mb = 0.0
        self._ended.clear()
        thread = threading.Thread(target=self._sample)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self.most_mb = max(self.most_mb, self.now_mb())

    def now_mb(self) -> float:
        """What they have now: without the code of libraries, which is a file that the system may drop."""
        return sum(_own_kb(pid) for pid in family(self._watched.pid)) / 1024


def _own_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def download(server: Server, case: Case, file: Path) -> float:
    """Download a form into a file, in as many requests as the gateway needs to make it; return the seconds."""
    begun = time.monotonic()
    while True:
        request = urllib.request.Request(server.url + case.path, headers=server.headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as response, file.open("wb") as out:
                while piece := response.read(1 << 20):
                    out.write(piece)
            return time.monotonic() - begun
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() - begun > 600:
                raise SystemExit(f"{case.path}: {error.code} {error.read(500)!r}") from None
            time.sleep(float(error.headers["Retry-After"]))


def differences(case: Case, file: Path, count: int) -> Iterator[str]:
    """Yield what a tool reads otherwise, and where."""
    order = range(count) if case.order is None else sorted(range(count), key=case.order)
    for reader in case.readers:
        found = reader(file)
        for n, row in zip(order, found, strict=False):
            if row != (wanted := case.expected(values(n))):
                yield f"{case.title}, {reader.__name__}, row {n}: {row}, not {wanted}"
                break
        else:
            if list(islice(found, 1)) or sum(1 for _ in reader(file)) != count:
                yield f"{case.title}, {reader.__name__}: not {count} rows"


def main() -> int:
    """Make, read and compare all forms; print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    count = arguments.parse_args().rows
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        data = directory / "data.json"
        write(data, count)
        print(f"{count:,} rows of {len(NAMES)} columns, {data.stat().st_size / 1e6:.0f} MB of JSON\n")
        print("| form | size | seconds | memory above that at the start | the same table in |\n|---|---|---|---|---|")
        with fixed_upstream(directory, data) as upstream, gateway(directory, upstream, cache=CACHE) as server:
            watch = Watch(server.running)
            before = watch.now_mb()
            for case in CASES:
                file = directory / f"rows.{case.form}"
                with watch.watching():
                    seconds = download(server, case, file)
                more = watch.most_mb - before
                found = list(differences(case, file, count))
                faults += found
                if more > MOST_MB:
                    faults.append(f"{case.title}: {more:.0f} MB")
                read = ", ".join(reader.__name__.replace("_", " ").removeprefix("with ") for reader in case.readers)
                size = file.stat().st_size / 1e6
                print(f"| {case.title} | {size:.1f} MB | {seconds:.1f} | {more:.0f} MB | {read} |", flush=True)
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
