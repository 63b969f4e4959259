"""Runs inside the gateway: switches, many times a second, what is told of a request, and notes what that costs.

So short are the spells because the machine's own speed drifts within a second by more than what is looked for: of many
neighbours, the differences are small and have a median. They are taken of the event loop's thread; the log's thread
writes a fifth of a second later, whatever is being told by then, and is measured in longer spells of its own.
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

from gateway.http.connection import Server
from gateway.http.response_cache import ResponseCache
from gateway.telemetry import log, log_writer
from gateway.telemetry.observer import Telemetry

NOTHING, METRICS, ALL = STATES = ("nothing", "metrics and status page", "metrics, status page and access log")
FILE = "BENCH_SPELLS"
"""The variable that names the file for one JSON object a round: by state the CPU µs of one request on the event loop,
and as `writing` those of one line in the log's thread."""

SPELL_SECONDS = 0.01
SETTLE_SECONDS = 0.002
ROUNDS_FOR_WRITING = 30
WRITING_SECONDS = 0.6
SETTLE_WRITING_SECONDS = 0.4


class Meter:
    """What has been spent so far."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.answers: list[ResponseCache] = []
        self.writing = 0  # nanoseconds
        self.lines = 0

    def tell(self) -> None:
        """Have everything told that waits for it, as it is once a second; so it counts where it belongs."""
        for answers in self.answers:
            answers.flush_all()
            answers._observer.flush()  # type: ignore[attr-defined]

    def read(self) -> tuple[int, int]:
        """Return requests so far, and nanoseconds of this thread."""
        return sum(server.requests_count for server in self.servers), time.thread_time_ns()


def start() -> None:
    """Begin to switch with the first listener, round after round, until the process ends."""
    meter = Meter()
    _note(Server, meter.servers, lambda: _begin(meter))
    _note(ResponseCache, meter.answers, lambda: None)
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


def _note(kind: type[Any], made: list[Any], then: Callable[[], None]) -> None:
    """Note every object of a kind when it is made."""
    make = kind.__init__

    def noting(one: Any, *given: object) -> None:
        made.append(one)
        make(one, *given)
        then()

    kind.__init__ = noting


_tasks: set[asyncio.Task[None]] = set()


def _begin(meter: Meter) -> None:
    _tasks.add(asyncio.create_task(_switch(meter, Path(os.environ[FILE]))))


class Switch:
    """What is told, as methods of the gateway's own that stand in their places or not."""

    def __init__(self) -> None:
        self._later, self._request = ResponseCache.record, Telemetry.record_request
        self._hit, self._lines = Telemetry.log_hit, log.write_requests

    def tell(self, state: str) -> None:
        """Tell what the state says from now on."""
        told, logged = state != NOTHING, state == ALL
        ResponseCache.record = self._later if told else _no  # type: ignore[method-assign, assignment]
        Telemetry.record_request = self._request if told else _no  # type: ignore[method-assign, assignment]
        Telemetry.log_hit = self._hit if logged else _no  # type: ignore[method-assign, assignment]
        log.write_requests = self._lines if logged else _no  # type: ignore[assignment]


async def _switch(meter: Meter, path: Path) -> None:
    switch = Switch()
    with path.open("w", buffering=1) as file:
        for number, order in enumerate(itertools.cycle(itertools.permutations(STATES))):
            if number % ROUNDS_FOR_WRITING == 0:
                switch.tell(ALL)
                writing = await _writing(meter)
            costs: dict[str, float] = {}
            for state in order:
                switch.tell(state)
                costs[state] = await _spell(meter)
            if writing and all(costs.values()):
                file.write(json.dumps(costs | {"writing": writing}) + "\n")


async def _writing(meter: Meter) -> float:
    """Return what the log's thread spends on a line in µs, when all are written; 0 where there were none."""
    await asyncio.sleep(SETTLE_WRITING_SECONDS)
    lines_before, spent_before = meter.lines, meter.writing
    await asyncio.sleep(WRITING_SECONDS)
    lines_written = meter.lines - lines_before
    return (meter.writing - spent_before) / 1000 / lines_written if lines_written else 0.0


async def _spell(meter: Meter) -> float:
    """Return the cost of one request in the next moment in µs; 0 where there was none."""
    await asyncio.sleep(SETTLE_SECONDS)
    meter.tell()
    requests, spent = meter.read()
    await asyncio.sleep(SPELL_SECONDS)
    meter.tell()
    requests_after, spent_after = meter.read()
    return (spent_after - spent) / 1000 / (requests_after - requests) if requests_after > requests else 0.0


def _no(*_: object) -> None:
    """Tell nothing."""
