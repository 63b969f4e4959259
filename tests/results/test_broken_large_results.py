"""A large result that always breaks off: who may have the stored one gets it at once, not an error a minute later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from unittest import mock

import pytest
from support.http import Reply
from support.inside import is_at_rest, retrying_every
from support.waiting import until, within
from support.world import World

RESULT_ROUTE = "/api/query_results/<query_result_id>.<filetype>"

WAYS: dict[str, Callable[[World], object]] = {
    "a run that is waited for": lambda world: world.post("large", max_age=10, wait=40),
    "one URL": lambda world: world.get(f"/api/queries/{world.named['large']}/results.json?max_age=10"),
}


@pytest.mark.parametrize("fault", ["truncate", "reset_before_headers"])
@pytest.mark.parametrize("way", WAYS)
async def test_the_stored_result_is_served_at_once(world: World, way: str, fault: str) -> None:
    """It came after 60 s, or was a failed job."""
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add(fault, route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    async with within(5):
        reply: Reply = await WAYS[way](world)  # type: ignore[misc]
    assert (reply.status, reply.body) == (200, stored)
    assert "detail=stale-if-error" in reply.cache
    assert world.started == 2, "the run itself was successful"


async def polled(world: World, job_id: str) -> Reply:
    """Poll a job as a client does that knows no `Prefer`, and read its result."""
    job = (await world.get(f"/api/jobs/{job_id}")).job
    while job["status"] in (1, 2):
        await asyncio.sleep(0.02)
        job = (await world.get(f"/api/jobs/{job_id}")).job
    assert (job["status"], job["error"]) == (3, "")
    return await world.get(f"/api/query_results/{job['query_result_id']}")


async def waited(world: World, job_id: str) -> Reply:
    job = await world.finish(job_id)
    return await world.get(f"/api/query_results/{job['query_result_id']}")


@pytest.mark.parametrize("follow", [polled, waited])
@pytest.mark.parametrize("fault", ["truncate", "reset_before_headers"])
async def test_a_job_ends_at_once_with_the_stored_result(
    world: World, fault: str, follow: Callable[[World, str], Awaitable[Reply]]
) -> None:
    """It was a failed job after 60 s."""
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add(fault, route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    async with within(10):
        job_id = (await world.post("large", max_age=10)).job["id"]
        reply = await follow(world, job_id)
    assert (reply.status, reply.body) == (200, stored)
    await world.restart()
    async with within(10):
        assert (await world.finish(job_id))["status"] == 3, "the next process says the same"


async def test_a_caller_that_was_redirected_to_its_run_gets_the_stored_result_at_once(world: World) -> None:
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add("truncate", route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    async with within(10):
        job_id = (await world.post("large", max_age=10)).job["id"]
        reply = await world.get(f"/api/queries/{world.named['large']}/results.json?max_age=10&run={job_id}")
    assert (reply.status, reply.body) == (200, stored)
    assert "detail=stale-if-error" in reply.cache
    await polled(world, job_id)  # the job has ended with it
    for _ in range(2):
        reply = await world.get(f"/api/queries/{world.named['large']}/results.json?max_age=10&run={job_id}")
        assert (reply.status, reply.body) == (200, stored)
        assert "detail=stale-if-error" in reply.cache
        await world.restart()  # the next process knows it, too


async def test_a_caller_that_was_redirected_to_the_run_of_a_stricter_one_gets_the_stored_result(world: World) -> None:
    """It was 500: by the bounds of whoever had begun the run, the stored result has no age at which it is acceptable.

    Cache-Status has no `ttl` then (RFC 9211 section 2.4: it is optional).
    """
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add("truncate", route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    async with within(10):
        await world.post("large", max_age=0, client="second")
        job_id = (await world.post("large", max_age=10)).job["id"]
        reply = await world.get(f"/api/queries/{world.named['large']}/results.json?max_age=10&run={job_id}")
    assert (reply.status, reply.body) == (200, stored)
    assert reply.cache == "redash-gateway; hit; detail=stale-if-error"


async def test_a_job_that_nobody_polled_ends_with_the_stored_result_too(world: World) -> None:
    stored = (await world.post("large", max_age=0, wait=40)).body
    world.sandbox.faults.add("truncate", route=RESULT_ROUTE, method="GET")
    world.clock.turn(100)
    with mock.patch("gateway.executions.runner.PATIENCE_SECONDS", 0.1), retrying_every(0.05):
        job_id = (await world.post("large", max_age=10)).job["id"]
        await until(lambda: is_at_rest(world.runtime))
    assert (await polled(world, job_id)).body == stored


async def test_a_job_that_must_be_new_fails(world: World) -> None:
    """`max_age` 0 never gets a stale result."""
    await world.post("large", max_age=0, wait=40)
    world.sandbox.faults.add("truncate", route=RESULT_ROUTE, method="GET")
    with mock.patch("gateway.executions.runner.PATIENCE_SECONDS", 0.1), retrying_every(0.05):
        job_id = (await world.post("large", max_age=0)).job["id"]
        job = await world.finish(job_id)
    assert job["status"] == 4
