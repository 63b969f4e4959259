"""Gateways that share a Redis run each query once, and any of them serves every caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.clocks import TurnableClock
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

from gateway.sandbox import Sandbox

SECONDS = {"seconds": 0}


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def gateways(
    tmp_path: Path, sandbox: Sandbox, clock: TurnableClock, redis: RedisServer
) -> AsyncIterator[list[World]]:
    """Three of them, before one sandbox."""
    worlds = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        worlds.append(World(tmp_path / name, sandbox, clock))
        await worlds[-1].start(store=redis.url, cache='failure_ttl = "0s"', extra=f'[redis]\nname = "{name}"\n')
    yield worlds
    for world in worlds:
        if world.runtime.serving:
            await world.stop()


async def begun(world: World, query: str = "slow_seconds", **body: Any) -> str:
    """A run that is in progress in Redash; the job id of its caller."""
    before = world.sandbox.counters.started
    job: str = (await world.post(query, **({"max_age": 0, "parameters": SECONDS} | body))).job["id"]
    await world.sandbox.wait_executions(before + 1)
    return job


async def ended(world: World, job: str) -> int:
    """The id of the result of a job that succeeds."""
    shown = await world.finish(job)
    assert (shown["status"], shown["error"]) == (3, ""), shown
    result: int = shown["query_result_id"]
    return result


async def test_callers_of_all_gateways_share_one_run(gateways: list[World], sandbox: Sandbox) -> None:
    async with sandbox.hold():
        posts = [world.post("slow_seconds", max_age=0, parameters=SECONDS) for world in gateways for _ in range(20)]
        jobs = [reply.job["id"] for reply in await asyncio.gather(*posts)]
        await sandbox.wait_executions(1)
    assert len(set(jobs)) == 60
    results = {await ended(gateways[number % 3], job) for number, job in enumerate(jobs)}
    assert len(results) == 1
    assert sandbox.counters.started == 1
    for world in gateways:
        reply = await world.post("slow_seconds", max_age=3600, parameters=SECONDS)
        assert "hit" in reply.headers["Cache-Status"]
    assert sandbox.counters.posts[gateways[0].named["slow_seconds"]] == 1
