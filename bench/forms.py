"""What forms of a large result cost: `python -m bench.forms --rows 1000000` makes each one in its process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.body import Body
from gateway.redash.downloads import ResultForm
from gateway.redash.renderings import DateFormats
from gateway.redash.selection import Selection
from gateway.results.forms import process
from gateway.results.forms.job import Job

COLUMNS = ("id", "customer_id", "amount", "status", "ordered_on", "placed_at", "city", "paid")
CASES: tuple[tuple[str, ResultForm, Selection], ...] = (
    ("NDJSON", "ndjson", Selection()),
    ("CSV for Excel", "csv", Selection(excel=True)),
    ("HTML", "html", Selection()),
    ("Parquet", "parquet", Selection()),
    ("Arrow", "arrow", Selection()),
    ("JSON, `order=-amount&limit=10`", "json", Selection(order=("-amount",), limit=10)),
    ("NDJSON, `order=city,-amount`", "ndjson", Selection(order=("city", "-amount"))),
)


def rows(count: int) -> Iterator[str]:
    for n in range(count):
        values = (
            n, n * 7919 % 100_003, n * 31_337 % 1_000_000 / 100, ("new", "paid", "shipped")[n % 3],
            f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}", f"2026-{n % 12 + 1:02}-{n % 28 + 1:02}T10:{n % 60:02}:00Z",
            f"Köln {n % 1000}", n % 2 == 0,
        )  # fmt: skip
        yield ("" if n == 0 else ", ") + json.dumps(dict(zip(COLUMNS, values, strict=True)))


def write(path: Path, count: int) -> None:
    with path.open("w") as file:
        columns = [{"name": name, "friendly_name": name, "type": None} for name in COLUMNS]
        file.write(f'{{"query_result": {{"id": 1, "data": {{"columns": {json.dumps(columns)}, "rows": [')
        file.writelines(rows(count))
        file.write(']}, "retrieved_at": "2026-11-26T10:00:00Z"}}')


async def measure(job: Job, body: Body) -> tuple[int, float, float]:
    """Return the bytes of a form, the CPU time of its process, and its peak memory in MB."""
    size = 0
    before = os.times()
    peak = 0.0
    async for piece in process.pieces_of(job, body):
        size += len(piece)
        peak = max(peak, *map(_peak, _children()))
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return size, cpu, peak


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() or ["self"]


def _peak(pid: str) -> float:
    """Memory of its own, without the code of libraries."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024 if "RssAnon:" in status else 0.0


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    count = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "result.json"
        write(path, count)
        body = Body(size=path.stat().st_size, path=path)
        print(f"{count:,} rows of {len(COLUMNS)} columns, {body.size / 1e6:.0f} MB of JSON\n")
        print("| form | size | CPU time | memory of the process |\n|---|---|---|---|")
        for title, form, selection in CASES:
            job = Job(form=form, selection=selection, formats=DateFormats(), size=body.size)
            size, cpu, peak = await measure(job, body)
            print(f"| {title} | {size / 1e6:.1f} MB | {cpu:.1f} s | {peak:.0f} MB |", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
