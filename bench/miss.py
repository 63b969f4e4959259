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


def measure(options: Options, directory: Path) -> Section:
    """Ask with ever new parameters, in turns directly and through the gateway, which knows the definition.

    A proxy of aiohttp's server and client that does nothing else shows what the machine asks for the way alone.
    """
    with (
        fixed_upstream(directory) as upstream,
        bare_proxy(directory, upstream) as proxy,
        gateway(directory, upstream, uvloop=options.uvloop) as server,
    ):
        callers = {"directly": Caller(upstream), "bare aiohttp proxy": Caller(proxy), "gateway": Caller.of(server)}
        numbers = itertools.count(1)
        for caller in callers.values():
            _ask(caller, numbers, 0.5)
        times: dict[str, list[float]] = {name: [] for name in callers}
        for _ in range(options.turns):
            for name, caller in callers.items():
                times[name] += _ask(caller, numbers, options.seconds)
        for caller in callers.values():
            caller.close()
    return _told(times)


def _ask(caller: Caller, numbers: Iterator[int], seconds: float) -> list[float]:
    """Ask for so many seconds; returns the milliseconds that each request took."""
    times = []
    end = time.monotonic() + seconds
    while (began := time.perf_counter()) and time.monotonic() < end:
        caller.post(INLINE, next(numbers))
        times.append((time.perf_counter() - began) * 1000)
    return times


def _told(times: dict[str, list[float]]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, taken in times.items():
        p99 = statistics.quantiles(taken, n=100)[98]
        figures.append({"way": name, "requests": len(taken), "p50_ms": medians[name], "p99_ms": p99})
        rows.append((name, f"p50 {medians[name]:.2f} ms, p99 {p99:.2f} ms", ""))
    for name in list(medians)[1:]:
        added = medians[name] - medians["directly"]
        figures.append({"way": f"added by the {name}", "p50_ms": added})
        rows.append(
            (f"added by the {name}, median", f"{added:.2f} ms", f"≤ {BAR_MS:g} ms" if name == "gateway" else "")
        )
    return Section("miss", figures, [bars("A miss that the upstream answers at once", rows)])
