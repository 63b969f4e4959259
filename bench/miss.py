"""A miss that Redash answers at once: what the gateway adds to it, one caller, one request after the other."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.caller import Caller
from bench.opponents import bare_proxy
from bench.report import Options, Section, bars
from bench.servers import fixed_upstream, gateway
from bench.upstream import INLINE

BAR_MS = 1.0
DIRECTLY = "directly"
SPELL_SECONDS = 0.2
"""So often the way changes: the machine's own speed drifts within seconds by more than what is looked for."""

Round = dict[str, list[float]]
"""Milliseconds that each request took, by way."""


def measure(options: Options, directory: Path) -> Section:
    """Ask with ever new parameters, in turns directly and through the gateway, which knows the definition.

    A proxy of aiohttp's server and client that does nothing else shows what the machine asks for the way alone.
    """
    with (
        fixed_upstream(directory) as upstream,
        bare_proxy(directory, upstream) as proxy,
        gateway(directory, upstream, uvloop=options.uvloop) as server,
    ):
        callers = {DIRECTLY: Caller(upstream), "bare aiohttp proxy": Caller(proxy), "gateway": Caller.of(server)}
        numbers = itertools.count(1)
        for caller in callers.values():
            _ask(caller, numbers, 0.5)
        rounds: list[Round] = [
            {name: _ask(caller, numbers, SPELL_SECONDS) for name, caller in callers.items()}
            for _ in range(round(options.turns * options.seconds / SPELL_SECONDS))
        ]
        for caller in callers.values():
            caller.close()
    return _told(rounds)


def _ask(caller: Caller, numbers: Iterator[int], seconds: float) -> list[float]:
    """Ask for so many seconds; returns the milliseconds that each request took."""
    times = []
    end = time.monotonic() + seconds
    while (began := time.perf_counter()) and time.monotonic() < end:
        caller.post(INLINE, next(numbers))
        times.append((time.perf_counter() - began) * 1000)
    return times


def _told(rounds: list[Round]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    for name in rounds[0]:
        taken = [time for found in rounds for time in found[name]]
        p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        figures.append({"way": name, "requests": len(taken), "p50_ms": p50, "p99_ms": p99})
        rows.append((name, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", ""))
    for name in list(rounds[0])[1:]:
        more = [statistics.median(found[name]) - statistics.median(found[DIRECTLY]) for found in rounds]
        low, added, high = statistics.quantiles(more, n=4)
        figures.append({"way": f"added by the {name}", "p50_ms": added, "quartiles_ms": [low, high]})
        bar = f"≤ {BAR_MS:g} ms" if name == "gateway" else ""
        rows.append(
            (f"added by the {name}, median of {len(more)} rounds", f"{added:.2f} ms ({low:.2f} to {high:.2f})", bar)
        )
    return Section("miss", figures, [bars("A miss that the upstream answers at once", rows)])
