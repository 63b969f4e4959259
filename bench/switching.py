"""Runs inside the gateway: switches, several times a second, what is told of a request, and notes what that costs.

So short are the spells because the machine's own speed drifts within seconds by more than what is looked for.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path

from gateway import log
from gateway.connection import Server
from gateway.telling import Telling

NOTHING, METRICS, ALL = STATES = ("nothing", "metrics and status page", "metrics, status page and access log")
FILE = "BENCH_SPELLS"
"""The variable that names the file for one JSON object a round: CPU µs of the process for one request, by state."""

SPELL_SECONDS = 0.3
SETTLE_SECONDS = 0.1
"""Until everything is told and written that was before the switch."""


def start() -> None:
    """Begin to switch, round after round, until the process ends."""
    servers: list[Server] = []
    make = Server.__init__

    def noted(self: Server, *given: object) -> None:
        servers.append(self)
        make(self, *given)  # type: ignore[arg-type]

    Server.__init__ = noted  # type: ignore[method-assign, assignment]
    threading.Thread(target=_switch, args=(servers, Path(os.environ[FILE])), daemon=True).start()


def _switch(servers: list[Server], path: Path) -> None:
    request, lines = Telling.request, log.tell_requests
    orders = itertools.cycle(itertools.permutations(STATES))
    with path.open("w") as file:
        for order in orders:
            costs = {}
            for state in order:
                Telling.request = request if state != NOTHING else _no  # type: ignore[method-assign, assignment]
                log.tell_requests = lines if state == ALL else _no  # type: ignore[assignment]
                costs[state] = _spell(servers)
            if all(costs.values()):
                file.write(json.dumps(costs) + "\n")
                file.flush()


def _spell(servers: list[Server]) -> float | None:
    """CPU µs of the process for one request, None where there was none."""
    time.sleep(SETTLE_SECONDS)
    requests, cpu = _so_far(servers)
    time.sleep(SPELL_SECONDS)
    requests_now, cpu_now = _so_far(servers)
    return (cpu_now - cpu) / 1000 / (requests_now - requests) if requests_now > requests else None


def _so_far(servers: list[Server]) -> tuple[int, int]:
    return sum(server.requests_count for server in servers), time.process_time_ns()


def _no(*_: object) -> None:
    """Tell nothing."""
