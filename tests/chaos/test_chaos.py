"""Hundreds of schedules of faults over mixed traffic, each from its seed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from support.clocks import TurnableClock
from support.fault_proxy import FaultProxy
from support.inside import canary_after, is_at_rest, left_over, request_patience, retrying_every
from support.length import TIMES
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox

from .callers import Callers
from .storm import Storm

SCHEDULES_EACH = 10
"""Schedules for one gateway; then it stops, and nothing of it may be left."""

CALLERS = 20
MOST_REQUESTS = 4
LIMITS = f"""
read_timeout = "400ms"
queue_timeout = "400ms"
max_requests = {MOST_REQUESTS}
max_executions = 3
breaker_reset = "200ms"
"""


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Every time in which the gateway is patient is shorter."""
    with ExitStack() as patches:
        for module in ("following", "runner"):
            patches.enter_context(mock.patch(f"gateway.executions.{module}.PATIENCE_SECONDS", 1.0))
        for name in ("definitions", "pauses"):
            patches.enter_context(mock.patch(f"gateway.results.{name}.LATE_SECONDS", 0.1))
        patches.enter_context(retrying_every(0.05))
        patches.enter_context(canary_after(0.25))
        patches.enter_context(request_patience(2.0))
        yield


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def schedule(world: World, proxy: FaultProxy, callers: Callers, seed: int) -> None:
    """One storm with its callers, and the calm after it."""
    chance, storm = Random(seed), Storm(seed)
    before = len(callers.findings)
    proxy.weather = storm
    tasks = []
    for _ in range(CALLERS):
        tasks.append(asyncio.create_task(callers.call()))
        await asyncio.sleep(chance.uniform(0, 0.03))
    if chance.random() < 0.5:
        proxy.stop()  # what hangs goes on to do so
    else:
        proxy.clear()
    await asyncio.gather(*tasks)
    with contextlib.suppress(TimeoutError):
        await until(lambda: is_at_rest(world.runtime) and not world.runtime.upstream.breaker.is_tripped)
    callers.findings += left_over(world.runtime)
    proxy.most_at_once = 0
    await asyncio.gather(*(callers.call(calm=True) for _ in range(5)))
    if proxy.most_at_once > MOST_REQUESTS:
        callers.findings.append(f"{proxy.most_at_once} requests at once")
    callers.findings[before:] = [f"seed {seed} ({storm}): {finding}" for finding in callers.findings[before:]]
    world.clock.turn(chance.choice((0, 3, 20, 70, 700)))


async def gateway(directory: Path, seeds: range) -> tuple[list[str], Counter[str]]:
    """One gateway's life through these schedules; what was wrong, and what was seen."""
    tasks, open_before = asyncio.all_tasks(), descriptors()
    clock = TurnableClock()
    async with Sandbox(now=clock.wall) as sandbox, FaultProxy(sandbox.url, seeds[0]) as proxy:
        world = World(directory, sandbox, clock, proxy.url)
        await world.start(upstream=LIMITS, cache='stale_if_error = "1h"')
        callers = Callers(world, Random(seeds[0]))
        for seed in seeds:
            await schedule(world, proxy, callers, seed)
        await until(lambda: not list(directory.rglob("*.tmp")))
        await world.stop()
    await until(lambda: len(asyncio.all_tasks() - tasks) <= 1)  # `until` has one itself
    await until(lambda: descriptors() <= open_before)
    return callers.findings, callers.figures


async def weather_the_storms(directory: Path, seeds: range, note: Callable[[str], None]) -> None:
    findings, figures = list[str](), Counter[str]()
    for first in range(seeds.start, seeds.stop, SCHEDULES_EACH):
        place = directory / str(first)
        place.mkdir()
        found, seen = await gateway(place, range(first, min(first + SCHEDULES_EACH, seeds.stop)))
        findings += found
        figures += seen
    note(f"chaos: {len(seeds)} schedules, {dict(figures)}")
    assert not findings, "\n".join(findings)
    assert {"200", "502", "504", "fresh", "stale", "job 3"} <= figures.keys()


async def test_nothing_wrong_is_served_in_any_weather(tmp_path: Path, note: Callable[[str], None]) -> None:
    await weather_the_storms(tmp_path, range(1, 16), note)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", [100, 300, 500, 700])
async def test_nothing_wrong_is_served_in_any_weather_for_longer(
    tmp_path: Path, note: Callable[[str], None], first: int
) -> None:
    await weather_the_storms(tmp_path, range(first, first + 50 * TIMES), note)
