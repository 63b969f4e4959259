"""A Redash whose own database or Redis is unavailable answers every request with its generic 500 (CONTRACT 25.2).

The same 500 is its answer to bad input (CONTRACT 3), so that one of them says nothing: a second request, which worked
before with the same credential, tells the two apart.
"""

from __future__ import annotations

import asyncio

import pytest
from support.world import World

JOB_ROUTE = "/api/jobs/<job_id>"
SESSION_ROUTE = "/api/session"
MINUTE = 60.0


async def test_what_is_fresh_stays_fresh(world: World) -> None:
    await world.rows("by_country", max_age=0)
    world.sandbox.faults.add("unhealthy")
    world.clock.turn(10 * MINUTE)  # the definition must be checked again, and that fails
    reply = await world.post("by_country", max_age=3600)
    assert reply.status == 200
    assert "hit" in reply.cache


async def test_what_is_stale_stands_in(bare: World) -> None:
    await bare.start(cache='stale_if_error = "1h"')
    await bare.rows("by_country", max_age=0)
    bare.sandbox.faults.add("unhealthy")
    bare.clock.turn(2 * MINUTE)
    reply = await bare.post("by_country", max_age=60)
    assert reply.status == 200
    assert "detail=stale-if-error" in reply.cache


async def test_a_job_that_lives_is_not_given_up(world: World) -> None:
    # The run goes on in its worker; only the web process cannot see it for a moment.
    hold = world.sandbox.hold()
    job = (await world.post("by_country", max_age=0)).job
    await world.sandbox.wait_executions(1)
    fault = world.sandbox.faults.add("unhealthy", count=3)
    await world.sandbox.wait_until(lambda: fault.hits == 3)
    hold.release()
    assert (await world.finish(job["id"]))["status"] == 3
    assert await world.metric("redash_gateway_executions_total", outcome="lost") == 0


async def test_the_breaker_opens(bare: World) -> None:
    await bare.start(upstream="breaker_failures = 3")
    await bare.rows("by_country", max_age=0)
    bare.sandbox.faults.add("unhealthy")
    for number in range(3):
        assert (await bare.get(f"/api/queries/{1000 + number}")).status in (502, 503)
    assert await bare.metric("redash_gateway_breaker_open") == 1


async def test_a_request_that_fails_by_itself_is_no_outage(world: World) -> None:
    # Every caller can cause these (CONTRACT 3): they must not take the cache from others, nor open the breaker.
    await world.rows("by_country", max_age=0)
    for number in range(12):
        assert (await world.get(f"/api/dashboards/no-such-{number}")).status == 500
    assert await world.metric("redash_gateway_breaker_open") == 0
    assert "hit" in (await world.post("by_country", max_age=3600)).cache


async def test_a_lost_job_is_still_told_from_an_outage(world: World) -> None:
    # Its 500 is about this id only: the canary answers.
    hold = world.sandbox.hold()
    job = (await world.post("by_country", max_age=0)).job
    await world.sandbox.wait_executions(1)
    world.sandbox.faults.add("lose_jobs")
    ended = await world.finish(job["id"])
    hold.release()
    assert ended["status"] == 4
    assert await world.metric("redash_gateway_executions_total", outcome="lost") == 1


async def test_the_canary_is_asked_once_a_second_at_most(world: World) -> None:
    await world.rows("by_country", max_age=0)
    asked = world.sandbox.faults.add("unhealthy", route=SESSION_ROUTE)
    world.sandbox.faults.add("unhealthy")
    replies = await asyncio.gather(*(world.get(f"/api/queries/{1000 + number}") for number in range(12)))
    assert {reply.status for reply in replies} <= {502, 503}
    assert asked.hits <= 2


@pytest.mark.parametrize("client", ["dashboard", "narrow"])
async def test_a_process_that_starts_in_an_outage_knows_it_from_the_ledger(bare: World, client: str) -> None:
    """It passed on each 500 of Redash, also where a stored result could stand in: it had seen nothing work yet."""
    await bare.start(cache='stale_if_error = "1h"')
    await bare.rows("by_country", max_age=0)
    await bare.rows("in_country", client=client, max_age=0, parameters={"country": "DE"})
    await bare.stop()
    bare.sandbox.faults.add("unhealthy")
    bare.clock.turn(2 * MINUTE)
    await bare.resume()
    reply = await bare.post("in_country", client=client, max_age=60, parameters={"country": "DE"})
    assert "detail=stale-if-error" in reply.cache
    assert (await bare.get("/api/queries/1000")).status == 502


async def test_a_credential_that_never_worked_has_no_canary(world: World) -> None:
    # Nothing says that its canary would work: the failure is passed on as Redash's own.
    world.sandbox.faults.add("unhealthy")
    assert (await world.get("/api/queries/1000")).status == 500


@pytest.mark.parametrize("client", ["dashboard", "narrow"])
async def test_user_keys_and_query_keys_have_a_canary(bare: World, client: str) -> None:
    await bare.start(cache='stale_if_error = "1h"')
    await bare.get("/api/session")  # a user's key speaks for a query's own, which has no request that always works
    await bare.rows("in_country", client=client, max_age=0, parameters={"country": "DE"})
    bare.sandbox.faults.add("unhealthy")
    bare.clock.turn(2 * MINUTE)
    reply = await bare.post("in_country", client=client, max_age=60, parameters={"country": "DE"})
    assert "detail=stale-if-error" in reply.cache


async def test_that_redash_worked_a_moment_ago_says_nothing_of_an_outage_now(world: World) -> None:
    """A canary that had got its response within the last second spoke for what came after it: 500s were passed on."""
    await world.rows("by_country", max_age=0)
    assert (await world.get("/api/dashboards/no-such")).status == 500, "asks the canary, which works"
    world.sandbox.faults.add("unhealthy")
    assert (await world.get("/api/queries/1000")).status == 502


async def test_one_user_speaks_for_another(world: World) -> None:
    """Redash fails the request that works for somebody else, so a first request with another key is no bad one."""
    await world.get("/api/session")
    world.sandbox.faults.add("unhealthy")
    assert (await world.get("/api/queries", client="writer")).status == 502


async def test_the_500_of_a_deleted_query_is_no_outage_for_its_own_key(bare: World) -> None:
    # A query key gets 500 instead of 404 then (CONTRACT 2): its rows must not stand in.
    await bare.start(cache='stale_if_error = "1h"')
    await bare.get("/api/session")
    await bare.rows("in_country", client="narrow", max_age=0, parameters={"country": "DE"})
    bare.sandbox.queries[bare.named["in_country"]].org = 2
    bare.clock.turn(2 * MINUTE)
    reply = await bare.post("in_country", client="narrow", max_age=3600, parameters={"country": "DE"})
    assert reply.status == 500
    assert "hit" not in reply.cache


# -- limits of Redash's own


async def test_a_429_with_retry_after_is_waited_for(world: World) -> None:
    fault = world.sandbox.faults.add("status", status=429, seconds=1, count=1)
    assert (await world.get("/api/data_sources")).status == 200
    assert fault.hits == 1


async def test_a_429_that_stays_says_when_to_come_again(world: World) -> None:
    world.sandbox.faults.add("status", status=429, seconds=120)
    reply = await world.get("/api/data_sources")
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) == 120
    assert await world.metric("redash_gateway_breaker_open") == 0
