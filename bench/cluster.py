"""Several gateways with one Redis: hits from memory on three of them against one, and hits that come from Redis."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from bench import cluster_costs, wrk
from bench.caller import Caller, body_for, counts
from bench.hits import Case, warm
from bench.ratios import number
from bench.report import Options, Section, targets
from bench.samples import samples
from bench.servers import Server, fixed_upstream, gateway, redis_server
from bench.upstream import KILOBYTE, MEDIUM

GATEWAYS = 3
ENTRIES = 2_000
"""Results of 1 KB, more than the second gateway keeps in memory: each of its hits comes from Redis."""

LITTLE = 'memory = "1MB"'
TARGETS = {"1 KB": 1.0, "5 MB": 30.0}
"""Milliseconds at the median for a hit from Redis."""

LARGE_RESULTS = 5
ROOM_FOR_SOME = 'memory = "8MB"'
"""Its temporary files may take twice that: not enough for all, so each read comes from Redis."""

_LARGE_TIMES = 30


def measure(options: Options, directory: Path) -> Section:
    """Measure hits from memory, then hits from Redis."""
    if shutil.which("redis-server") is None:
        return Section("cluster", [], [targets("Several gateways (skipped: no redis-server)", [])])
    memory = _from_memory(options, directory)
    redis = [*_small_from_redis(options, directory), *_large_from_redis(options, directory)]
    costs = cluster_costs.measure(options, directory)
    rows = [_row(figure) for figure in redis]
    one, three = (figure for figure in memory if figure["store"] == "Redis")
    ratio = number(three["cpu_us"]) / number(one["cpu_us"])
    gain = number(three["rate"]) / number(one["rate"])
    rows += [(f"{f['gateways']} × gateway, {f['store']}: hits of 1 KB from memory", _shown(f), "") for f in memory]
    rows += [
        (f"CPU per hit on {GATEWAYS} gateways / on one", f"{ratio:.2f}", "1"),
        (f"hits per second on {GATEWAYS} gateways / on one", f"{gain:.2f}", "≥ 2.5 where there are cores for it"),
    ]
    tables = [targets("Several gateways with one Redis", rows), cluster_costs.table(costs)]
    return Section("cluster", [*memory, *redis, *costs], tables)


def _shown(figure: dict[str, object]) -> str:
    return f"{number(figure['cpu_us']):.1f} µs CPU, {number(figure['rate']):.0f}/s"


def _row(figure: dict[str, object]) -> tuple[str, str, str]:
    name, p50, p99 = figure["hit"], number(figure["p50_ms"]), number(figure["p99_ms"])
    target = f"≤ {TARGETS[str(figure['size'])]:g} ms" if figure["from"] == "Redis" else ""
    return str(name), f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", target


# -- from memory


def _from_memory(options: Options, directory: Path) -> list[dict[str, object]]:
    """Load one gateway without Redis, one with Redis, and three at once, in turns."""
    with ExitStack() as stack:
        found = stack.enter_context(samples(directory))
        store = stack.enter_context(redis_server(directory))
        case = Case("1 KB", found.ids["1 KB"], "plain", "POST")
        alone = stack.enter_context(gateway(directory, found.url, found.key, loop=options.loop))
        shared = [
            stack.enter_context(gateway(directory, found.url, found.key, loop=options.loop, store=store.url))
            for _ in range(GATEWAYS)
        ]
        for server in (alone, *shared):
            warm(case, server)
        groups = {("SQLite", 1): [alone], ("Redis", 1): shared[:1], ("Redis", GATEWAYS): shared}
        turns: dict[tuple[str, int], list[list[wrk.Turn]]] = {group: [] for group in groups}
        for _ in range(options.turns):
            for group, servers in groups.items():
                turns[group].append(_at_once(case, servers, options, directory))
    return [{"store": store, "gateways": count, **_figures(turns[store, count])} for store, count in groups]


def _at_once(case: Case, servers: list[Server], options: Options, directory: Path) -> list[wrk.Turn]:
    """Load all these servers at the same time."""

    def load(server: Server) -> wrk.Turn:
        own = directory / f"wrk-{server.running.pid}"
        own.mkdir(exist_ok=True)
        lua = wrk.script(case.method, case.headers(server), case.body)
        return wrk.turn(lua, server.url + case.path(server), server.running, options.seconds, own)

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(load, servers))


def _figures(turns: list[list[wrk.Turn]]) -> dict[str, object]:
    """Medians over the turns: CPU of all servers through all hits, and hits per second of all together."""
    cpu = [sum(t.cpu_us * t.requests for t in turn) / sum(t.requests for t in turn) for turn in turns]
    return {"cpu_us": statistics.median(cpu), "rate": statistics.median(sum(t.rate for t in turn) for turn in turns)}


# -- from Redis


def _small_from_redis(options: Options, directory: Path) -> list[dict[str, object]]:
    """Store results through one gateway; read them through another one, which has never seen most of them."""
    with ExitStack() as stack:
        upstream = stack.enter_context(fixed_upstream(directory))
        store = stack.enter_context(redis_server(directory))
        writer = stack.enter_context(gateway(directory, upstream, loop=options.loop, store=store.url))
        reader = stack.enter_context(gateway(directory, upstream, loop=options.loop, store=store.url, cache=LITTLE))
        writing, reading = Caller.of(writer), Caller.of(reader)
        for n in range(ENTRIES):
            writing.post(KILOBYTE, n)
        turns = range(options.turns)
        first = [_post(reading, n) for _ in turns for n in range(ENTRIES)]
        memory = [_post(writing, n) for _ in turns for n in itertools.islice(itertools.cycle((1, 2, 3)), ENTRIES)]
        _expect_hits(upstream, len(first) + len(memory))
    return [_taken("1 KB", "Redis", first), _taken("1 KB", "memory", memory)]


def _expect_hits(upstream: str, reads: int) -> None:
    """Stop if more than one in a hundred reads was no hit: a machine that is too busy makes Redis late."""
    if (missed := counts(upstream).posts - ENTRIES) > reads / 100:
        raise SystemExit(f"{missed} of {reads} reads were no hits")


def _post(caller: Caller, n: int) -> float:
    began = time.perf_counter()
    caller.post(KILOBYTE, n)
    return (time.perf_counter() - began) * 1000


def _large_from_redis(options: Options, directory: Path) -> list[dict[str, object]]:
    """Results of 5 MB in turns, through a gateway without room for all of them, and one of them through another."""
    with ExitStack() as stack:
        upstream = stack.enter_context(fixed_upstream(directory))
        store = stack.enter_context(redis_server(directory))
        writer = stack.enter_context(gateway(directory, upstream, loop=options.loop, store=store.url))
        reader = stack.enter_context(
            gateway(directory, upstream, loop=options.loop, store=store.url, cache=ROOM_FOR_SOME)
        )
        writing, reading = Caller.of(writer), Caller.of(reader)
        for caller in (writing, reading):
            for n in range(LARGE_RESULTS):
                _read(caller, n)
        times = options.turns * _LARGE_TIMES
        redis = [_read(reading, n % LARGE_RESULTS) for n in range(times)]
        memory = [_read(writing, 0) for _ in range(times)]
        if (posts := counts(upstream).posts) > LARGE_RESULTS + times / 100:
            raise SystemExit(f"{posts} POSTs reached the upstream: these were no hits")
    return [_taken("5 MB", "Redis", redis), _taken("5 MB", "memory", memory)]


def _read(caller: Caller, n: int) -> float:
    """Read a result of 5 MB, or wait for its run; return the milliseconds."""
    began = time.perf_counter()
    body = caller.ask("POST", f"/api/queries/{MEDIUM}/results", body_for(n), {"Prefer": "wait=30"})
    if not body.startswith(b'{"query_result"'):
        raise SystemExit(f"no result: {body[:200]!r}")
    return (time.perf_counter() - began) * 1000


def _taken(size: str, source: str, times: list[float]) -> dict[str, object]:
    p99 = statistics.quantiles(times, n=100)[98]
    name = f"a hit of {size} from {source}"
    return {"hit": name, "size": size, "from": source, "p50_ms": statistics.median(times), "p99_ms": p99}
