"""What it costs that every hit is told of: one gateway, switched between turns, so that nothing else differs."""

from __future__ import annotations

import itertools
import signal
import statistics
import time
from pathlib import Path

from bench import wrk
from bench.hits import Case, query_ids, save_bodies, warm
from bench.report import Options, Section, bars
from bench.servers import Server, gateway, redash

BAR_US = 5.0
ROUNDS = 4
"""For each turn that was asked for: what is looked for is a few per cent of what is measured."""

_SETTLE_SECONDS = 0.2
NOTHING = "nothing"
STATES = {
    NOTHING: signal.SIGUSR1,
    "metrics and status page": signal.SIGUSR2,
    "metrics, status page and access log": signal.SIGWINCH,
}
SWITCH = """
import signal
from gateway import log
from gateway.telling import Telling
_request, _lines, _no = Telling.request, log.tell_requests, lambda *_: None
def _switch(number, frame):
    Telling.request = _no if number == signal.SIGUSR1 else _request
    log.tell_requests = _lines if number == signal.SIGWINCH else _no
for _number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
    signal.signal(_number, _switch)
"""


def measure(options: Options, directory: Path) -> Section:
    """Load the ordinary way with hits of 1 KB; in each round every state has one turn, another one first each time."""
    with (
        redash(directory) as (upstream, key),
        gateway(directory, upstream, key, access_log=True, uvloop=options.uvloop, before=SWITCH) as server,
    ):
        ids = query_ids(upstream, key)
        save_bodies(upstream, key, ids, directory)
        costs = {method: _costs(method, ids["1 KB"], server.ordinary_way(), options, directory) for method in _METHODS}
    return _shown(costs)


_METHODS = ("GET", "POST")
Costs = dict[str, list[float]]
"""CPU µs a request beyond those of the same round with nothing told, by what is told."""


def _costs(method: str, query_id: int, server: Server, options: Options, directory: Path) -> Costs:
    case = Case("1 KB", query_id, "plain", method)
    warm(case, server)
    costs: Costs = {name: [] for name in STATES if name != NOTHING}
    orders = itertools.cycle(itertools.permutations(STATES))
    for order in itertools.islice(orders, ROUNDS * options.turns):
        cpu = {name: _turn(name, case, server, options, directory) for name in order}
        for name, found in costs.items():
            found.append(cpu[name] - cpu[NOTHING])
    return costs


def _turn(state: str, case: Case, server: Server, options: Options, directory: Path) -> float:
    server.running.process.send_signal(STATES[state])
    time.sleep(_SETTLE_SECONDS)  # what was told before is written
    lua = wrk.script(case.method, case.headers(server), case.body)
    return wrk.turn(lua, server.url + case.path(server), server.running, options.seconds, directory).cpu_us


def _shown(costs: dict[str, Costs]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    for method, found in costs.items():
        for name, differences in found.items():
            low, median, high = statistics.quantiles(differences, n=4)
            figures.append({"method": method, "told": name, "rounds": len(differences), "cpu_us": median})
            figures[-1] |= {"quartiles_us": [low, high]}
            bar = f"≤ {BAR_US:g} µs" if "log" in name else ""
            rows.append((f"{method}: {name}", f"{median:.1f} µs ({low:.1f} to {high:.1f})", bar))
    title = "Telling of a hit on the ordinary way, 1 KB: CPU beyond that of telling nothing, median and quartiles"
    return Section("telling", figures, [bars(title, rows)])
