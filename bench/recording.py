"""The cost of recording each hit: one gateway that switches recording on and off under load; nothing else differs."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from bench import switching, wrk
from bench.hits import Case, warm
from bench.report import Options, Section, targets
from bench.samples import samples
from bench.servers import gateway

TARGET_US = 5.0
LONGER = 4
"""This section runs longer than others by this factor: the difference to measure is a few per cent of the total."""

LEAST_SECONDS = 8

Rounds = list[dict[str, float]]
"""See `switching.FILE`."""


def measure(options: Options, directory: Path) -> Section:
    """Load the normal path with hits of 1 KB while the gateway switches."""
    rounds: dict[str, Rounds] = {}
    path = directory / "intervals"
    with (
        samples(directory) as found,
        gateway(
            directory,
            found.url,
            found.key,
            access_log=True,
            loop=options.loop,
            before="from bench import switching\nswitching.start()\n",
            env={switching.FILE: str(path)},
        ) as server,
    ):
        normal = server.normal_path()
        for method in ("GET", "POST"):
            case = Case("1 KB", found.ids["1 KB"], "plain", method)
            warm(case, normal)
            before = len(_read(path))
            lua = wrk.script(method, case.headers(normal), case.body)
            seconds = max(LEAST_SECONDS, LONGER * options.turns * options.seconds)
            wrk.turn(lua, normal.url + case.path(normal), normal.running, seconds, directory)
            rounds[method] = _read(path)[before + 1 :]  # the first round may have begun before the load
    return _section(rounds)


def _read(path: Path) -> Rounds:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _section(rounds: dict[str, Rounds]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    for method, found in rounds.items():
        writing = statistics.median(costs["writing"] for costs in found)
        for state in switching.STATES[1:]:
            logged = state == switching.ALL
            more = [costs[state] - costs[switching.NOTHING] + (writing if logged else 0.0) for costs in found]
            whole = statistics.median(costs[state] for costs in found)
            low, median, high = statistics.quantiles(more, n=4)
            error = 1.25 * (high - low) / 1.35 / math.sqrt(len(more))  # of the median of a normal distribution
            figures.append({"method": method, "recorded": state, "rounds": len(found), "whole_us": whole})
            figures[-1] |= {"more_us": [low, median, high], "error_us": error, "writing_us": writing if logged else 0.0}
            shown = f"{median:.1f} ± {error:.1f} ({low:.0f} to {high:.0f}) of {whole:.0f} µs"
            rows.append((f"{method}: {state}", shown, f"≤ {TARGET_US:g} µs" if logged else ""))
    title = "Recording a hit on the normal path, 1 KB: CPU µs per request, medians ± error (quartiles)"
    return Section("recording", figures, [targets(title, rows)])
