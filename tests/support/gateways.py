"""Several gateways in one process that share a Redis: how their runs begin and end, and how one of them is cut off."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.sandbox import Sandbox
from support.fault_proxy import FaultProxy
from support.redis_server import RedisServer
from support.waiting import until
from support.world import World

SECONDS = {"seconds": 0}
POLLS = "^/api/jobs/"


async def begun(world: World, query: str = "slow_seconds", **body: Any) -> str:
    """A run that is in progress in Redash; the job id of its caller."""
    before = world.sandbox.counters.started
    asked: dict[str, Any] = {"max_age": 0, "parameters": SECONDS} | body
    job: str = (await world.post(query, **asked)).job["id"]
    await world.sandbox.wait_executions(before + 1)
    return job


def edit(sandbox: Sandbox, *worlds: World) -> None:
    """Edit the query behind Redash's back, and let these gateways see it at once: they join no run of before."""
    query = worlds[0].named["slow_seconds"]
    sandbox.edit_query(query, query="select sleep({{ seconds }}) as slept, 1 as edited")
    for world in worlds:
        world.runtime.results.definitions.drop(query)


async def ended(world: World, job: str) -> int:
    """The id of the result of a job that succeeds."""
    shown = await world.finish(job)
    assert (shown["status"], shown["error"]) == (3, ""), shown
    result: int = shown["query_result_id"]
    return result


async def awaited(world: World) -> None:
    """Wait until a caller waits for a run of this gateway."""
    await until(lambda: any(execution.waiters for execution in world.runtime.executions.flights.running))


async def lose_lease(world: World, redis: RedisServer) -> None:
    """Cut a gateway off from Redis, so that it neither renews nor hears anything, and let its lease run out."""
    store: Any = world.runtime.store
    await store.link.close()
    await redis.let_leases_run_out()


async def ended_unseen(world: World, proxy: FaultProxy, seconds: float = 0.0) -> str:
    """A run that ends in Redash, after so long, while no poll gets through; the job id of its caller."""
    hold = world.sandbox.hold()
    job = await begun(world, "now", parameters={})
    proxy.add("reset", POLLS)
    await asyncio.sleep(seconds)
    hold.release()
    await world.sandbox.wait_finished(1)
    await world.sandbox.wait_idle()
    return job
