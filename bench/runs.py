"""Runs of known duration: how long a caller waits for one, directly and through the gateway, and how often it polls.

No run is the first of its query: the gateway knows how long the last one took.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.caller import Caller, body_for, counts
from bench.report import Options, Section, Table
from bench.servers import fixed_upstream, gateway
from bench.upstream import LASTING

DURATIONS_MS = (20, 300, 5_000)
LONG_MS = 60_000
TURNS = 5
"""At least; the gateway can have more runs at the same time."""

SIDE_BY_SIDE_MS = 1_000
"""From here on the turns run at the same time: they wait, and disturb each other little."""

POLL_SECONDS = 0.1
"""Between the polls of a caller that only polls."""

IDEAL, WAITING = "directly, an ideal caller", "gateway, Prefer: wait"
FACTOR, MORE_MS = 1.1, 15.0
"""The target for a waiting caller: so many times the ideal, and so much more."""

Run = Callable[[int, int], None]
"""Gets the result of the query that takes so many milliseconds, with this parameter."""


def measure(options: Options, directory: Path) -> Section:
    """Run a query of each duration in each way."""
    figures: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = []
    numbers = itertools.count(1)
    with fixed_upstream(directory) as upstream, gateway(directory, upstream, loop=options.loop) as server:
        ways: dict[str, Run] = {
            IDEAL: lambda ms, n: _ideal(Caller(upstream), ms, n),
            WAITING: lambda ms, n: _waiting(Caller.of(server), ms, n),
            "directly, polling": lambda ms, n: _polling(Caller(upstream), ms, n),
            "gateway, polling": lambda ms, n: _polling(Caller.of(server), ms, n),
        }
        for duration in [*DURATIONS_MS, *([LONG_MS] if options.long_runs else [])]:
            ways[WAITING](duration, next(numbers))  # the first run of the query
            found = [
                _taken(name, run, duration, numbers, upstream, max(TURNS, options.turns)) for name, run in ways.items()
            ]
            figures += found
            rows += _rows(found)
    title = f"Runs of known duration (callers that poll do so every {POLL_SECONDS * 1000:.0f} ms)"
    return Section("runs", figures, [Table(title, ("", "median ms", "worst ms", "target", "polls per run"), rows)])


def _taken(
    name: str, run: Run, duration: int, numbers: itertools.count[int], upstream: str, turns: int
) -> dict[str, Any]:
    """Run a query several times in one way."""
    parallel = TURNS if duration >= SIDE_BY_SIDE_MS else 1
    before = counts(upstream).polls
    with ThreadPoolExecutor(parallel) as pool:
        times = list(pool.map(lambda n: _milliseconds(run, duration, n), itertools.islice(numbers, turns)))
    polls = (counts(upstream).polls - before) / turns
    return {"ms": duration, "way": name, "median_ms": statistics.median(times), "worst_ms": max(times), "polls": polls}


def _milliseconds(run: Run, duration: int, number: int) -> float:
    began = time.monotonic()
    run(duration, number)
    return (time.monotonic() - began) * 1000


def _rows(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    ideal = next(one["median_ms"] for one in found if one["way"] == IDEAL)
    target = {WAITING: f"≤ {FACTOR * ideal + MORE_MS:.0f} ms"}
    return [
        (
            f"{one['ms'] / 1000:g} s, {one['way']}",
            f"{one['median_ms']:.0f}",
            f"{one['worst_ms']:.0f}",
            target.get(one["way"], ""),
            f"{one['polls']:.1f}",
        )
        for one in found
    ]


def _ideal(caller: Caller, duration: int, number: int) -> None:
    """Poll at the moment when the run ends, and from then on without a pause."""
    job = _begin(caller, duration, number)["job"]
    time.sleep(duration / 1000)
    _follow(caller, job, 0.0)


def _polling(caller: Caller, duration: int, number: int) -> None:
    """Poll at fixed intervals."""
    begun = _begin(caller, duration, number)
    if "job" in begun:
        time.sleep(POLL_SECONDS)
        _follow(caller, begun["job"], POLL_SECONDS)


def _waiting(caller: Caller, duration: int, number: int) -> None:
    """Let the gateway hold the response as long as it does."""
    begun = _begin(caller, duration, number, {"Prefer": "wait=50"})
    if "job" in begun:
        _follow(caller, begun["job"], 0.0, {"Prefer": "wait=50"})


def _begin(caller: Caller, duration: int, number: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    path = f"/api/queries/{LASTING + duration}/results"
    begun: dict[str, Any] = json.loads(caller.ask("POST", path, body_for(number), headers))
    return begun


def _follow(caller: Caller, job: dict[str, Any], pause: float, headers: dict[str, str] | None = None) -> None:
    """Poll a job to its end and read its result."""
    while (job := json.loads(caller.ask("GET", f"/api/jobs/{job['id']}", None, headers))["job"])["status"] != 3:
        if job["status"] not in (1, 2):
            raise SystemExit(f"a run failed: {job}")
        time.sleep(pause)
    caller.ask("GET", f"/api/query_results/{job['query_result_id']}.json")
    caller.close()
