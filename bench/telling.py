"""What it costs that every hit is told of: one gateway, switched under load, so that nothing else differs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from bench import switching, wrk
from bench.hits import Case, query_ids, save_bodies, warm
from bench.report import Options, Section, bars
from bench.servers import gateway, redash

BAR_US = 5.0
LONGER = 4
"""Times the seconds of other sections: what is looked for is a few per cent of what is measured."""

LEAST_SECONDS = 8

Rounds = list[dict[str, switching.Cost]]
"""By what was told, round after round."""


def measure(options: Options, directory: Path) -> Section:
    """Load the ordinary way with hits of 1 KB while the gateway switches."""
    rounds: dict[str, Rounds] = {}
    spells = directory / "spells"
    with (
        redash(directory) as (upstream, key),
        gateway(
            directory,
            upstream,
            key,
            access_log=True,
            uvloop=options.uvloop,
            before="from bench import switching\nswitching.start()\n",
            env={switching.FILE: str(spells)},
        ) as server,
    ):
        ids = query_ids(upstream, key)
        save_bodies(upstream, key, ids, directory)
        ordinary = server.ordinary_way()
        for method in ("GET", "POST"):
            case = Case("1 KB", ids["1 KB"], "plain", method)
            warm(case, ordinary)
            known = len(_read(spells))
            lua = wrk.script(method, case.headers(ordinary), case.body)
            seconds = max(LEAST_SECONDS, LONGER * options.turns * options.seconds)
            wrk.turn(lua, ordinary.url + case.path(ordinary), ordinary.running, seconds, directory)
            rounds[method] = _read(spells)[known + 1 :]  # the first may have begun before the load
    return _shown(rounds)


def _read(path: Path) -> Rounds:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _shown(rounds: dict[str, Rounds]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    for method, found in rounds.items():
        for state in switching.STATES[1:]:
            spent = [costs[state]["telling"] + costs[state]["writing"] for costs in found]
            more = [costs[state]["whole"] - costs[switching.NOTHING]["whole"] for costs in found]
            whole = statistics.median(costs[state]["whole"] for costs in found)
            figures.append({"method": method, "told": state, "rounds": len(found), "whole_us": whole})
            figures[-1] |= {"spent_us": statistics.quantiles(spent, n=4), "more_us": statistics.quantiles(more, n=4)}
            shown = f"{_quartiles(spent)} spent, {_quartiles(more)} more in all, of {whole:.0f} µs"
            rows.append((f"{method}: {state}", shown, f"≤ {BAR_US:g} µs" if state == switching.ALL else ""))
    title = "Telling of a hit on the ordinary way, 1 KB: CPU µs for one request, medians (quartiles)"
    return Section("telling", figures, [bars(title, rows)])


def _quartiles(values: list[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.1f} ({low:.1f} to {high:.1f})"
