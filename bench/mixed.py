"""Hits while other work is under way: misses, a result of 50 MB that arrives, gzip of 16 MB, and 200 slow readers.

Hits come at fixed moments, whatever the responses take; their times beside the load are compared with those without.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.background import READY
from bench.caller import body_for
from bench.load import Load, sent
from bench.nginx import READS, nginx
from bench.processes import running
from bench.replaying import recorded
from bench.report import Options, Section, Table
from bench.servers import TOKEN, Server, fixed_upstream, gateways
from bench.upstream import KILOBYTE

HITS_PER_SECOND = 500
START_SECONDS, SETTLE_SECONDS = 60.0, 30.0
TARGET = 2.0
"""The 99th percentile beside the load, through that without."""

Times = dict[tuple[str, bool], list[list[float]]]
"""Seconds of each hit, turn by turn; the key is the server, and whether the load is under way."""


def measure(options: Options, directory: Path) -> Section:
    """Measure each gateway without and with its load, and nginx beside them, which has no other work to do."""
    times: Times = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(fixed_upstream(directory))
        ours = stack.enter_context(gateways(directory, upstream, "bench"))
        beside = [s for s in stack.enter_context(nginx(directory, upstream, "bench")) if s.name == READS]
        for _ in range(options.turns):
            for server in ours:
                for loaded in (False, True):
                    with background(server, directory) if loaded else ExitStack():
                        for measured in (server, *beside):
                            name = server.name if measured is server else f"nginx beside the {server.name}"
                            times.setdefault((name, loaded), []).append(hits(measured, options.seconds))
    figures = [_figures(name, loaded, turns) for (name, loaded), turns in times.items()]
    title = f"{HITS_PER_SECOND} hits a second of 1 KB, alone and beside misses, 50 MB arriving, gzip and slow readers"
    return Section("load", figures, [Table(title, ("", "p50 ms", "p99 ms", "longest ms", "target"), _rows(figures))])


def hits(server: Server, seconds: float) -> list[float]:
    """Send the POST of a page at fixed moments; the first one fills the cache."""
    request = recorded("Chromium", "POST")
    host = urlsplit(server.url).netloc
    segments = request.segments(host=host, token=TOKEN, query=KILOBYTE, body=body_for(1))
    texts = [segment.decode("latin-1") for segment in segments]
    sent(Load(server.url, texts, 0.1, rate=HITS_PER_SECOND))
    return sent(Load(server.url, texts, seconds, rate=HITS_PER_SECOND))


@contextmanager
def background(server: Server, directory: Path) -> Iterator[None]:
    """Keep the load under way; at the end wait until the server has nothing left to do."""
    with running([sys.executable, "-m", "bench.background", server.url], directory) as process:
        end = time.monotonic() + START_SECONDS
        while READY not in (text := process.log.read_text()):
            if process.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the background load does not start:\n{text[-2000:]}")
            time.sleep(0.1)
        yield
        if process.process.poll() is not None:
            raise SystemExit(f"the background load has ended:\n{process.log.read_text()[-2000:]}")
    _settle(server)


def _settle(server: Server) -> None:
    end = time.monotonic() + SETTLE_SECONDS
    before = -1.0
    while (now := server.running.cpu_seconds()) - before > 0.02 and time.monotonic() < end:
        before = now
        time.sleep(0.5)


def _figures(name: str, loaded: bool, turns: list[list[float]]) -> dict[str, object]:
    cuts = [statistics.quantiles(times, n=100) for times in turns]
    p50, p99 = (statistics.median(cut[number] for cut in cuts) * 1000 for number in (49, 98))
    longest = max(max(times) for times in turns) * 1000
    return {"server": name, "loaded": loaded, "p50_ms": p50, "p99_ms": p99, "longest_ms": longest}


def _rows(figures: list[dict[str, object]]) -> list[tuple[str, ...]]:
    alone = {one["server"]: float(str(one["p99_ms"])) for one in figures if not one["loaded"]}
    rows = []
    for one in figures:
        name = f"{one['server']}{', beside the load' if one['loaded'] else ''}"
        bound = one["loaded"] and str(one["server"]).startswith("gateway")
        target = f"p99 ≤ {TARGET * alone[one['server']]:.2f} ms" if bound else ""
        rows.append((name, *(f"{one[key]:.2f}" for key in ("p50_ms", "p99_ms", "longest_ms")), target))
    return rows
