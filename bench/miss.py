"""A miss to which Redash responds at once: what the gateway adds; one caller, one request after the other."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.caller import Caller
from bench.opponents import bare_proxy
from bench.report import Options, Section, targets
from bench.servers import fixed_upstream, gateway
from bench.upstream import INLINE

TARGET = 1.6
"""What the gateway adds, through what the bare proxy adds."""

DIRECTLY, PROXY, GATEWAY = "directly", "bare aiohttp proxy", "gateway"
INTERVAL_SECONDS = 0.2
"""How often the route changes: the speed of the machine drifts within seconds by more than what is measured."""

Round = dict[str, list[float]]
"""Milliseconds of each request, by route."""


def measure(options: Options, directory: Path) -> Section:
    """Send requests with new parameters, in turns directly and through the gateway, which knows the definition.

    A proxy made of aiohttp's server and client that does nothing else shows the cost of forwarding alone.
    """
    with (
        fixed_upstream(directory) as upstream,
        bare_proxy(directory, upstream) as proxy,
        gateway(directory, upstream, loop=options.loop) as server,
    ):
        callers = {DIRECTLY: Caller(upstream), PROXY: Caller(proxy), GATEWAY: Caller.of(server)}
        numbers = itertools.count(1)
        for caller in callers.values():
            _send(caller, numbers, 0.5)
        rounds: list[Round] = [
            {name: _send(caller, numbers, INTERVAL_SECONDS) for name, caller in callers.items()}
            for _ in range(round(options.turns * options.seconds / INTERVAL_SECONDS))
        ]
        for caller in callers.values():
            caller.close()
    return _section(rounds)


def _send(caller: Caller, numbers: Iterator[int], seconds: float) -> list[float]:
    """Send requests for `seconds`; return the milliseconds of each request."""
    times = []
    end = time.monotonic() + seconds
    while (began := time.perf_counter()) and time.monotonic() < end:
        caller.post(INLINE, next(numbers))
        times.append((time.perf_counter() - began) * 1000)
    return times


def _section(rounds: list[Round]) -> Section:
    figures: list[dict[str, object]] = []
    rows = []
    for name in rounds[0]:
        taken = [time for found in rounds for time in found[name]]
        p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        figures.append({"route": name, "requests": len(taken), "p50_ms": p50, "p99_ms": p99})
        rows.append((name, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", ""))
    shares = []
    for name in (PROXY, GATEWAY):
        more = [statistics.median(found[name]) - statistics.median(found[DIRECTLY]) for found in rounds]
        low, added, high = statistics.quantiles(more, n=4)
        shares.append(added)
        figures.append({"route": f"added by the {name}", "p50_ms": added, "quartiles_ms": [low, high]})
        rows.append(
            (f"added by the {name}, median of {len(more)} rounds", f"{added:.2f} ms ({low:.2f} to {high:.2f})", "")
        )
    rows.append(("added by the gateway / by the proxy", f"{shares[1] / shares[0]:.2f}", f"≤ {TARGET:g}"))
    return Section("miss", figures, [targets("A miss to which the upstream responds at once", rows)])
