"""Start: from the command to the first 200 of /readyz, with an empty store and with a hundred thousand results."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from pathlib import Path

from bench.filling import batched, results
from bench.processes import running
from bench.report import Options, Section, targets
from bench.servers import command, settings
from gateway.config.schema import EventLoop
from gateway.model import SystemClock
from gateway.store.sqlite.ledger import SqliteLedger
from gateway.store.sqlite.store import SqliteStore

RESULTS = 100_000
BODY_BYTES = 500
TARGET = "≤ 1 s"
BATCH = 2_000
POLL_SECONDS = 0.005
_NOWHERE = "http://127.0.0.1:9"
"""An upstream that gets no requests during the start."""


def measure(options: Options, directory: Path) -> Section:
    """Start in turns with each store, after a clean stop and after a kill; the first turn is a warm-up."""
    home = directory / "start"
    home.mkdir()
    asyncio.run(_fill(home / "full.db"))
    kinds = {"empty store": ("empty.db", False), "100,000 results": ("full.db", False)}
    kinds["100,000 results, after a kill"] = ("full.db", True)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.turns + 1):
        for name, (file, killed) in kinds.items():
            if killed:
                _start(home, file, loop=options.loop, kill=True)
            taken = _start(home, file, loop=options.loop)
            if turn:
                times[name].append(taken)
    shutil.rmtree(home)
    figures: list[dict[str, object]] = [{"store": name, "seconds": taken} for name, taken in times.items()]
    rows = [(name, f"{statistics.median(taken):.2f} s", TARGET) for name, taken in times.items()]
    return Section("start", figures, [targets("From the command to ready", rows)])


def _start(home: Path, file: str, *, loop: EventLoop, kill: bool = False) -> float:
    """Start and stop the gateway; return the seconds until it was ready."""
    written = settings(home, _NOWHERE, store=file, loop=loop)
    began = time.monotonic()
    with running(command(written), home, {"BENCH_KEY": "bench"}) as process:
        ready = process.wait_for(written.ready_url, every=POLL_SECONDS)
        if kill:
            process.process.kill()
    return ready - began


async def _fill(path: Path) -> None:
    """Fill a store as the gateway does: each result under its id and under its query, with its id in the ledger."""
    clock = SystemClock()
    store = SqliteStore(path, disk_bytes=4 * 10**9, max_entry_bytes=64 * 10**6, clock=clock)
    ledger = SqliteLedger(store.database, store.writer, clock)
    await store.open()
    await store.usable()
    for batch in batched(results(RESULTS, BODY_BYTES), BATCH):
        for keys, entry, body in batch:
            await store.put(keys, entry, body)
        await asyncio.gather(*(ledger.record_result(e.scope, e.result_id, e.query_id) for _, e, _ in batch))
        await store.flush()
    if store.dropped or store.disk.contents.entries < RESULTS:
        raise SystemExit(f"the store took {store.disk.contents.entries} entries only")
    await store.close()
