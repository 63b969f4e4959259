"""What it costs that every hit is told of: one gateway, switched under load, so that nothing else differs."""

from __future__ import annotations

import json
import math
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

Rounds = list[dict[str, float]]
"""See `switching.FILE`."""


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
        writing = statistics.median(costs["writing"] for costs in found)
        for state in switching.STATES[1:]:
            logged = state == switching.ALL
            more = [costs[state] - costs[switching.NOTHING] + (writing if logged else 0.0) for costs in found]
            whole = statistics.median(costs[state] for costs in found)
            low, median, high = statistics.quantiles(more, n=4)
            error = 1.25 * (high - low) / 1.35 / math.sqrt(len(more))  # of the median, as of a normal distribution's
            figures.append({"method": method, "told": state, "rounds": len(found), "whole_us": whole})
            figures[-1] |= {"more_us": [low, median, high], "error_us": error, "writing_us": writing if logged else 0.0}
            shown = f"{median:.1f} ± {error:.1f} ({low:.0f} to {high:.0f}) of {whole:.0f} µs"
            rows.append((f"{method}: {state}", shown, f"≤ {BAR_US:g} µs" if logged else ""))
    title = "Telling of a hit on the ordinary way, 1 KB: CPU µs for one request, medians ± their error (quartiles)"
    return Section("telling", figures, [bars(title, rows)])
