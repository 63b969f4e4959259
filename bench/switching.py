"""Runs inside the gateway: switches, several times a second, what is told of a request, and notes what that costs.

So short are the spells because the machine's own speed drifts within seconds by more than what is looked for. It shows
in the process's whole CPU time, with all that follows from it, and less blurred in that of the telling itself.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway import lines, log
from gateway.connection import Server
from gateway.known import KnownAnswers
from gateway.telling import Telling

NOTHING, METRICS, ALL = STATES = ("nothing", "metrics and status page", "metrics, status page and access log")
FILE = "BENCH_SPELLS"
"""The variable that names the file for one JSON object a round: by state, `Cost` of one request."""

SPELL_SECONDS = 0.15
SETTLE_SECONDS = 0.15
"""Until everything is told and written that was before the switch."""

Cost = dict[str, float]
"""CPU µs of one request: `whole` of the process, `telling` on the event loop, `writing` in the log's thread."""


class Meter:
    """What has been spent so far, in nanoseconds of CPU time."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.answers: list[KnownAnswers] = []
        self._spent = {"telling": 0, "writing": 0}

    def noted(self, kind: type[Any], made: list[Any]) -> None:
        """Note every object of a kind when it is made."""
        make = kind.__init__

        def noting(one: Any, *given: object) -> None:
            made.append(one)
            make(one, *given)

        kind.__init__ = noting

    def timed(self, name: str, work: Callable[..., None]) -> Callable[..., None]:
        """Return `work` with its CPU time counted under `name`."""

        def counted(*given: object) -> None:
            began = time.thread_time_ns()
            work(*given)
            self._spent[name] += time.thread_time_ns() - began

        return counted

    def tell(self) -> None:
        """Have everything told that waits for it, as it is once a second; so it counts where it belongs."""
        done = threading.Event()

        def tell() -> None:
            for answers in self.answers:
                answers.flush_all()
                answers._teller.flush()  # type: ignore[attr-defined]
            done.set()

        self.servers[0]._loop.call_soon_threadsafe(tell)
        done.wait(1.0)

    def read(self) -> dict[str, int]:
        """Return requests so far, and CPU time."""
        requests = sum(server.requests_count for server in self.servers)
        return {"requests": requests, "whole": time.process_time_ns(), **self._spent}


def start() -> None:
    """Begin to switch, round after round, until the process ends."""
    meter = Meter()
    meter.noted(Server, meter.servers)
    meter.noted(KnownAnswers, meter.answers)
    Telling.flush = meter.timed("telling", Telling.flush)  # type: ignore[method-assign]
    lines.Writer._drain = meter.timed("writing", lines.Writer._drain)  # type: ignore[method-assign]
    threading.Thread(target=_switch, args=(meter, Path(os.environ[FILE])), daemon=True).start()


def _switch(meter: Meter, path: Path) -> None:
    later, request, hit, access_lines = KnownAnswers.tell_later, Telling.request, Telling.log_hit, log.tell_requests
    while not meter.servers:  # it has not begun to listen
        time.sleep(SETTLE_SECONDS)
    with path.open("w") as file:
        for order in itertools.cycle(itertools.permutations(STATES)):
            costs = {}
            for state in order:
                told, logged = state != NOTHING, state == ALL
                KnownAnswers.tell_later = later if told else _no  # type: ignore[method-assign, assignment]
                Telling.request = request if told else _no  # type: ignore[method-assign, assignment]
                Telling.log_hit = hit if logged else _no  # type: ignore[method-assign, assignment]
                log.tell_requests = access_lines if logged else _no  # type: ignore[assignment]
                costs[state] = _spell(meter)
            if all(costs.values()):
                file.write(json.dumps(costs) + "\n")
                file.flush()


def _spell(meter: Meter) -> Cost:
    """Return the cost of one request in the next moment; empty where there was none."""
    time.sleep(SETTLE_SECONDS)
    meter.tell()
    before = meter.read()
    time.sleep(SPELL_SECONDS)
    meter.tell()
    after = meter.read()
    requests = after.pop("requests") - before.pop("requests")
    return {name: (after[name] - before[name]) / 1000 / requests for name in after} if requests else {}


def _no(*_: object) -> None:
    """Tell nothing."""
