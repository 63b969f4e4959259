"""Budgets of gateways that share a Redis: one for all, also when one of them dies, or Redis is away."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from support.clocks import TurnableClock
from support.gateways import lose_lease
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox, warehouse
from gateway.store.redis import silence

SHARED = 'budget = "10m/h"'
KEY = {"country": "DE"}


@pytest.fixture
async def pair(
    tmp_path: Path,
    sandbox: Sandbox,
    clock: TurnableClock,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> list[World]:
    monkeypatch.setattr(silence, "SILENT_SECONDS", 2.0)  # two gateways in one process on a busy machine
    execute = warehouse.Run.execute
    monkeypatch.setattr(warehouse.Run, "execute", lambda run: dataclasses.replace(execute(run), runtime=250.0))
    worlds = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name, sandbox, clock))
        await worlds[-1].start(store=redis.url, extra=f'[redis]\nname = "{name}"\n', dashboard=SHARED)
    return worlds


async def stopped(worlds: list[World]) -> None:
    for world in worlds:
        if world.runtime.serving:
            await world.stop()


async def spent(world: World) -> tuple[float, float]:
    budgets = world.runtime.executions.budgets
    await budgets.refresh("dashboard")
    (state,) = budgets.states("dashboard")
    return round(state.spent, 1), round(state.reserved, 1)


async def status_of_run(world: World, country: str = "DE", client: str = "dashboard") -> int:
    return (await world.post("in_country", client=client, wait=10, max_age=0, parameters={"country": country})).status


async def test_all_gateways_count_together_and_joined_runs_are_free(pair: list[World], sandbox: Sandbox) -> None:
    one, two = pair
    assert await status_of_run(one) == 200
    hold = sandbox.hold()
    job = (await one.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await sandbox.wait_executions(2)
    assert await spent(two) == (250.0, 250.0)
    joining = asyncio.create_task(two.post("in_country", wait=20, max_age=0, parameters=KEY))
    await until(lambda: any(run.standing.follows for run in two.runtime.executions.flights.running))
    assert await status_of_run(one, "FR") == 429
    hold.release()
    await one.finish(job)
    assert (await joining).status == 200
    assert [await spent(world) for world in pair] == [(500.0, 0.0)] * 2
    assert [await status_of_run(world) for world in pair] == [429, 429]
    assert sandbox.counters.started == 2
    await one.restart()
    assert await spent(one) == (500.0, 0.0)
    await stopped(pair)


async def test_who_goes_on_with_a_run_settles_it_for_the_client_that_began_it(
    pair: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two = pair
    await status_of_run(one)
    hold = sandbox.hold()
    job = (await one.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await sandbox.wait_executions(2)
    await until(lambda: bool(one.runtime.executions.flights.running[0].upstream_job))
    following = asyncio.create_task(two.get(f"/api/jobs/{job}", prefer="wait=30"))
    await until(lambda: bool(two.runtime.executions.flights.running))
    await one.stop()
    hold.release()
    assert (await following).job["status"] == 3
    await until(lambda: not two.runtime.executions.flights.running)
    assert await spent(two) == (500.0, 0.0)
    await stopped(pair)


async def test_without_redis_each_has_its_part_and_what_it_spends_counts_afterwards(
    pair: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two = pair
    assert await status_of_run(two, client="second") == 200
    await until(lambda: one.runtime.sharing is not None and len(one.runtime.sharing.stats().gateways) == 2)
    await lose_lease(one, redis)  # it works alone now
    assert await status_of_run(one) == 200
    budgets = one.runtime.executions.budgets
    assert [round(state.spent) for state in budgets.states("dashboard")] == [500]  # as if both had done it
    assert await status_of_run(one) == 429
    assert await spent(two) == (0.0, 0.0)
    store = one.runtime.store
    await store.link.open()  # type: ignore[attr-defined]
    await until(lambda: one.runtime.leases.shared)
    assert await spent(one) == (250.0, 0.0)
    assert await spent(two) == (250.0, 0.0)
    assert await status_of_run(one) == 200
    await stopped(pair)


async def test_rates_of_each_gateway_mean_budgets_of_each_gateway(
    tmp_path: Path, redis: RedisServer, bare: World
) -> None:
    await bare.start(store=redis.url, extra='[redis]\nrates = "gateway"\n', dashboard='budget = "1ms/h"')
    assert await status_of_run(bare) == 200
    assert await status_of_run(bare) == 429
    assert await redis.ask("KEYS", "*:s:*") == []
