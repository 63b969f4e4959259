"""Memory: the real and the counted size of a stored result, and whether memory stays flat over a million requests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import wrk
from bench.caller import Caller
from bench.filling import results
from bench.processes import resident_bytes, running
from bench.report import Options, Section, Table, targets
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import KILOBYTE
from gateway.model import SystemClock
from gateway.store.memory import MemoryStore

RESULTS = 20_000
BODY_BYTES = 1_000
KEYS = 10_000
CALLERS = 8
MB = 10**6


@dataclass(frozen=True)
class Mark:
    """Resident memory after a number of requests."""

    requests: int
    resident_mb: float


def measure(options: Options, directory: Path) -> Section:
    """Fill the store of a fresh process; then request the same keys from a gateway again and again."""
    figures: list[dict[str, object]] = []
    taken, counted = _per_entry(directory)
    figures.append({"results": RESULTS, "bytes_each": taken, "counted_each": counted})
    rows = [("a result of 1 KB under two keys", f"{taken:.0f} bytes, {counted:.0f} counted", "no more than counted")]
    tables = [targets(f"Memory, {RESULTS} results in the store", rows)]
    if options.requests:
        marks = list(_marks(options, directory))
        figures += [asdict(mark) for mark in marks]
        tables.append(_flat(marks))
    return Section("memory", figures, tables)


def _flat(marks: list[Mark]) -> Table:
    growth = marks[-1].resident_mb - marks[1].resident_mb
    rows = [(f"after {mark.requests} requests", f"{mark.resident_mb:.1f} MB", "") for mark in marks]
    rows.append(("growth since the first fifth", f"{growth:.1f} MB", "flat"))
    return targets(f"Memory of the gateway, requests for {KEYS} keys", rows)


def _per_entry(directory: Path) -> tuple[float, float]:
    """Return the real and the counted bytes of a result, measured in a separate process."""
    with running([sys.executable, "-m", "bench.memory"], directory) as process:
        if process.process.wait(120) != 0:
            raise SystemExit(process.log.read_text())
        sizes = json.loads(process.log.read_text())
    return float(sizes["taken"]), float(sizes["counted"])


def _fill() -> dict[str, float]:
    store = MemoryStore(1_000 * MB, SystemClock(), max_entry_bytes=64 * MB)
    for keys, entry, body in results(1_000, BODY_BYTES):  # the first ones also load modules and allocate buffers
        store.insert(keys, entry, body)
    store.remove(None, None)
    before = resident_bytes(os.getpid())
    for keys, entry, body in results(RESULTS, BODY_BYTES):
        store.insert(keys, entry, body)
    taken = resident_bytes(os.getpid()) - before
    return {"taken": taken / RESULTS, "counted": store.stats()[0].bytes / RESULTS}


def _marks(options: Options, directory: Path) -> Iterator[Mark]:
    """Yield the memory after the first round over all keys, and after each fifth of the requests."""
    with fixed_upstream(directory) as upstream, gateway(directory, upstream, loop=options.loop) as server:
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(lambda first: _request_each(server, first), range(CALLERS)))
        done = KEYS
        yield Mark(done, server.running.resident_bytes() / MB)
        for fifth in range(1, 6):
            while done < options.requests * fifth // 5:
                url = f"{server.url}/api/queries/{KILOBYTE}/results"
                done += wrk.turn(_lua(server), url, server.running, options.seconds, directory).requests
            yield Mark(done, server.running.resident_bytes() / MB)


def _request_each(server: Server, first: int) -> None:
    """Send one request for every key in this caller's share."""
    caller = Caller.of(server)
    for n in range(first, KEYS, CALLERS):
        caller.post(KILOBYTE, n)
    caller.close()


def _lua(server: Server) -> str:
    """A script that prepares all requests and sends a random one each time."""
    headers = ", ".join(f'["{name}"] = "{value}"' for name, value in server.headers.items())
    return f"""
        local made = {{}}
        function init()
          for n = 0, {KEYS - 1} do
            local body = string.format('{{"max_age": 3600, "parameters": {{"n": %d}}}}', n)
            made[n + 1] = wrk.format("POST", nil, {{{headers}}}, body)
          end
        end
        function request() return made[math.random(#made)] end
    """


if __name__ == "__main__":
    print(json.dumps(_fill()))
