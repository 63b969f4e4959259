"""Runs inside the gateway: switches many times a second what is recorded of a request, and measures the cost.

The intervals are short because the speed of the machine drifts within a second by more than the difference to measure;
the median over many neighbouring intervals is reliable. They measure the event loop's thread. The log's thread writes a
fifth of a second later, whatever the state is then; it has its own, longer intervals.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.http.response_cache import ResponseCache
from gateway.http.server import Server
from gateway.telemetry import log, log_writer
from gateway.telemetry.observer import Telemetry

NOTHING, METRICS, ALL = STATES = ("nothing", "metrics and console", "metrics, console and access log")
FILE = "BENCH_INTERVALS"
"""The environment variable that names the output file. It has one JSON object per round: for each state the CPU µs of
one request on the event loop, and as `writing` those of one line in the log's thread."""

INTERVAL_SECONDS = 0.01
SETTLE_SECONDS = 0.002
ROUNDS_FOR_WRITING = 30
WRITING_SECONDS = 0.6
SETTLE_WRITING_SECONDS = 0.4


class Meter:
    """Requests and CPU time so far."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.caches: list[ResponseCache] = []
        self.writing = 0  # nanoseconds
        self.lines = 0

    def record_waiting(self) -> None:
        """Record what waits to be recorded once a second, so that its cost counts in the right interval."""
        for cache in self.caches:
            cache.flush_all()
            cache._observer.flush()  # type: ignore[attr-defined]

    def read(self) -> tuple[int, int]:
        """Return the number of requests so far, and the CPU nanoseconds of this thread."""
        return sum(server.requests_count for server in self.servers), time.thread_time_ns()


def start() -> None:
    """Switch from the start of the first listener until the process ends."""
    meter = Meter()
    _collect(Server, meter.servers, lambda: _begin(meter))
    _collect(ResponseCache, meter.caches, lambda: None)
    drain, put = log_writer.LogWriter._drain, log_writer.LogWriter.put

    def timed(self: log_writer.LogWriter) -> None:
        began = time.thread_time_ns()
        drain(self)
        meter.writing += time.thread_time_ns() - began

    def counted(writer: log_writer.LogWriter, text: str, lines: int = 1) -> None:
        meter.lines += lines
        put(writer, text, lines)

    log_writer.LogWriter._drain = timed  # type: ignore[method-assign]
    log_writer.LogWriter.put = counted  # type: ignore[assignment, method-assign]


def _collect(kind: type[Any], made: list[Any], then: Callable[[], None]) -> None:
    """Add every new object of a class to `made`."""
    make = kind.__init__

    def collecting(one: Any, *given: object, **named: object) -> None:
        made.append(one)
        make(one, *given, **named)
        then()

    kind.__init__ = collecting


_tasks: set[asyncio.Task[None]] = set()


def _begin(meter: Meter) -> None:
    if not _tasks:  # the admin listener has a server, too
        _tasks.add(asyncio.create_task(_switch(meter, Path(os.environ[FILE]))))


class Switch:
    """Switches recording on and off by replacing methods of the gateway."""

    def __init__(self) -> None:
        self._later, self._request = ResponseCache.record, Telemetry.record_request
        self._hit, self._lines = Telemetry.log_hit, log.write_requests

    def set(self, state: str) -> None:
        """Record from now on what the state says."""
        recorded, logged = state != NOTHING, state == ALL
        ResponseCache.record = self._later if recorded else _no  # type: ignore[method-assign, assignment]
        Telemetry.record_request = self._request if recorded else _no  # type: ignore[method-assign, assignment]
        Telemetry.log_hit = self._hit if logged else _no  # type: ignore[method-assign, assignment]
        log.write_requests = self._lines if logged else _no  # type: ignore[assignment]


async def _switch(meter: Meter, path: Path) -> None:
    switch = Switch()
    with path.open("w", buffering=1) as file:
        for number, order in enumerate(itertools.cycle(itertools.permutations(STATES))):
            if number % ROUNDS_FOR_WRITING == 0:
                switch.set(ALL)
                writing = await _writing(meter)
            costs: dict[str, float] = {}
            for state in order:
                switch.set(state)
                costs[state] = await _interval(meter)
            if writing and all(costs.values()):
                file.write(json.dumps(costs | {"writing": writing}) + "\n")


async def _writing(meter: Meter) -> float:
    """Return the µs that the log's thread spends on a line; 0 if there were no lines."""
    await asyncio.sleep(SETTLE_WRITING_SECONDS)
    lines_before, spent_before = meter.lines, meter.writing
    await asyncio.sleep(WRITING_SECONDS)
    lines_written = meter.lines - lines_before
    return (meter.writing - spent_before) / 1000 / lines_written if lines_written else 0.0


async def _interval(meter: Meter) -> float:
    """Return the µs of one request in the next interval; 0 if there was no request."""
    await asyncio.sleep(SETTLE_SECONDS)
    meter.record_waiting()
    requests, spent = meter.read()
    await asyncio.sleep(INTERVAL_SECONDS)
    meter.record_waiting()
    requests_after, spent_after = meter.read()
    return (spent_after - spent) / 1000 / (requests_after - requests) if requests_after > requests else 0.0


def _no(*_: object) -> None:
    """Record nothing."""
