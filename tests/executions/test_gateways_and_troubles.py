"""Leaders that are paused, a Redis that goes and comes, definitions that change, results that nobody stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from support.gateways import SECONDS, awaited, begun, ended, lose_lease
from support.redis_server import RedisServer
from support.waiting import until, within
from support.world import World

from gateway.executions.execution import Execution
from gateway.executions.runner import Runner
from gateway.sandbox import Sandbox, parameter
from gateway.store.redis.lease_scripts import LIFE_MILLISECONDS
from gateway.store.redis.leases import RedisLease, RedisLeases


async def take_lease(world: World, redis: RedisServer, job: str) -> None:
    """Let all leases run out, and this gateway take one for the run of a job.

    Time passes meanwhile: a gateway that finds the run ended knows that its rows can only be younger than that.
    """
    world.clock.turn(LIFE_MILLISECONDS / 1000)
    await redis.let_leases_run_out()
    await world.get(f"/api/jobs/{job}")
    await until(lambda: world.runtime.leases.held == 1)


@contextmanager
def asleep_before_its_result(execution: Execution) -> Iterator[asyncio.Event]:
    """Let the gateway of an execution not fetch its result before the event is set."""
    awake, fetch = asyncio.Event(), Runner._fetch_patiently

    async def sleepy(runner: Runner, fetched: Execution, *more: Any) -> Any:
        if fetched is execution:
            await awake.wait()
        return await fetch(runner, fetched, *more)

    with mock.patch.object(Runner, "_fetch_patiently", sleepy):
        yield awake


async def test_a_leader_that_was_paused_changes_nothing_when_it_wakes(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """It neither keeps its lease nor hears of the other leader until its run has ended, too."""
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running
    with mock.patch.object(RedisLease, "renew", return_value=False):
        await take_lease(two, redis, first)
        lease = execution.standing.lease
        hold.release()
        results = {await ended(world, first) for world in gateways}
        assert isinstance(lease, RedisLease)
        assert lease.is_lost
    assert len(results) == 1
    assert one.runtime.leases.losses == 1
    async with within(10.0):  # its follower says so a moment before the leader gives it up
        while await redis.ask("KEYS", "*:l:*") != []:
            pass
    assert sandbox.counters.started == 1


async def test_the_log_says_which_run_a_gateway_has_taken_over(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.executions")
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running
    with mock.patch.object(RedisLease, "renew", return_value=False):
        await take_lease(two, redis, first)
        hold.release()
        await ended(two, first)
    lines = [record for record in caplog.records if "taking a run over" in record.getMessage()]
    assert [record.__dict__["fields"] for record in lines] == [
        {
            "execution": execution.id,
            "query": one.named["slow_seconds"],
            "upstream_job": execution.upstream_job,
        }
    ]


async def test_a_gateway_that_leads_its_own_run_again_says_nothing(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.executions")
    one = gateways[0]
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running
    lease = execution.standing.lease
    await redis.let_leases_run_out()
    execution.standing.lease.lose()  # type: ignore[attr-defined]
    await until(lambda: execution.standing.lease is not lease and bool(execution.standing.lease.number))
    hold.release()
    await ended(one, first)
    assert [record for record in caplog.records if "taking a run over" in record.getMessage()] == []


async def test_a_job_keeps_the_end_that_was_reported_when_its_leader_wakes(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """It brings newer rows by then, or finds them; but callers of others have read the end of the job already."""
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running
    lease = execution.standing.lease

    with asleep_before_its_result(execution) as awake:
        with mock.patch.object(RedisLease, "renew", return_value=False):
            await take_lease(two, redis, first)
            hold.release()
            result = await ended(two, first)
            assert await ended(two, (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]) != result
        awake.set()
        await lease.renew()
        assert {await ended(world, first) for world in gateways} == {result}
    await until(lambda: not one.runtime.executions.flights.running)
    assert {await ended(world, first) for world in gateways} == {result}
    assert sandbox.counters.started == 2


async def test_who_comes_to_a_leader_that_has_just_woken_gets_rows_from_after_that(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """It does not know yet that another gateway has led its run to the end, and would give out one more job of it."""
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running

    with asleep_before_its_result(execution) as awake:
        with mock.patch.object(RedisLease, "renew", return_value=False):
            await take_lease(two, redis, first)
            hold.release()
            old = await ended(two, first)
        job = (await one.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
        assert await ended(three, job) != old
        awake.set()
    assert await ended(one, job) == await ended(two, job) == await ended(three, job) != old
    assert {await ended(world, first) for world in gateways} == {old}
    assert sandbox.counters.started == 2


async def test_a_leader_that_has_lost_its_lease_follows_the_new_one(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    (execution,) = one.runtime.executions.flights.running
    lease = execution.standing.lease
    await take_lease(two, redis, first)
    assert isinstance(lease, RedisLease)
    await lease.renew()
    await until(lambda: execution.standing.follows)
    assert one.runtime.leases.held == 0
    hold.release()
    assert await ended(one, first) == await ended(two, first)
    assert sandbox.counters.started == 1


async def waiting_for_a_slot(world: World) -> tuple[str, Execution]:
    """A run that leads and whose POST has to wait, while its gateway keeps no lease any more."""
    world.reconfigure(world.text.replace("[upstream]", "[upstream]\nmax_executions = 1"))
    await begun(world, "now", parameters={})
    job: str = (await world.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    query = world.named["slow_seconds"]
    (execution,) = (e for e in world.runtime.executions.flights.running if e.plan.query_id == query)
    assert isinstance(world.runtime.leases, RedisLeases)
    assert world.runtime.leases._renewing is not None
    world.runtime.leases._renewing.cancel()
    return job, execution


async def test_no_post_leaves_without_the_lease(gateways: list[World], sandbox: Sandbox, redis: RedisServer) -> None:
    """A leader that waits for a slot loses its lease, and does not know: it finds out before its POST."""
    one, two, _ = gateways
    query = one.named["slow_seconds"]
    slot, hold = sandbox.hold(one.named["now"]), sandbox.hold(query)
    job, execution = await waiting_for_a_slot(one)
    await take_lease(two, redis, job)
    await sandbox.wait_executions(2)
    slot.release()
    await until(lambda: execution.standing.follows)
    hold.release()
    assert await ended(one, job) == await ended(two, job)
    assert sandbox.counters.posts[query] == 1


async def test_a_run_beside_the_lease_of_another_sends_no_post(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """It follows its own job; when the rows of that are of an old text, the query is run again by who has the lease."""
    one, two, three = gateways
    query = one.named["slow_seconds"]
    slot, hold = sandbox.hold(one.named["now"]), sandbox.hold(query)
    first = await begun(one)
    await lose_lease(one, redis)
    sandbox.edit_query(query, query="select sleep({{ seconds }}) as slept, 1 as edited")
    two.runtime.results.definitions.drop(query)
    second, _ = await waiting_for_a_slot(two)
    assert (await three.get(f"/api/jobs/{first}")).job["status"] in (1, 2)
    (execution,) = three.runtime.executions.flights.running
    await until(lambda: execution.standing.is_apart)
    hold.release()
    await until(lambda: not execution.standing.is_apart)
    assert sandbox.counters.posts[query] == 1
    slot.release()
    new = await ended(two, second)
    assert await ended(three, first) >= new
    assert "edited" in (await three.get(f"/api/queries/{query}/results/{await ended(three, first)}.json")).rows[0]


async def test_a_leader_that_wakes_when_its_run_has_ended_does_not_run_it_again(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    """Nobody has the lease any more by then, but another gateway had it, and said how the run ended."""
    one, two, _ = gateways
    query = one.named["slow_seconds"]
    slot = sandbox.hold(one.named["now"])
    job, _execution = await waiting_for_a_slot(one)
    await take_lease(two, redis, job)
    result = await ended(two, job)
    await until(lambda: two.runtime.leases.held == 0)
    slot.release()
    assert await ended(one, job) == result
    assert sandbox.counters.started_by_query[query] == 1


async def test_without_redis_each_gateway_works_alone_and_afterwards_together(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    await redis.kill()
    third = (await one.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    fourth = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    hold.release()
    for world, job in ((one, first), (two, second), (one, third), (two, fourth)):
        await ended(world, job)
    await redis.start()
    await until(lambda: all(world.runtime.leases.shared for world in gateways))
    started = sandbox.counters.started
    async with sandbox.hold():
        jobs = [(await world.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"] for world in gateways]
        await sandbox.wait_executions(started + 1)
    assert len({await ended(world, job) for world in gateways for job in jobs}) == 1
    assert sandbox.counters.started == started + 1
    assert await ended(two, first)


async def test_a_run_that_outlasts_an_outage_is_led_again(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    await redis.kill()
    await until(lambda: not any(world.runtime.leases.shared for world in gateways))
    await redis.start()
    await until(lambda: all(world.runtime.leases.shared for world in gateways))
    await until(lambda: sum(world.runtime.leases.held for world in gateways) == 1)
    hold.release()
    assert len({await ended(world, job) for world in (one, two, three) for job in (first, second)}) == 1
    assert sandbox.counters.started == 1


async def test_a_lease_that_vanished_is_taken_again_by_its_leader(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    await redis.ask("FLUSHALL")
    await until(lambda: one.runtime.leases.shared and one.runtime.leases.held == 1)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    hold.release()
    assert await ended(one, first)
    assert await ended(two, second)


async def test_callers_by_a_newer_definition_do_not_join(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    query = one.named["slow_seconds"]
    hold = sandbox.hold()
    first = await begun(one)
    sandbox.edit_query(query, query="select sleep({{ seconds }}) as slept, 1 as edited")
    two.runtime.results.definitions.drop(query)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    hold.release()
    assert await ended(one, first) != (new := await ended(two, second))
    assert "edited" in (await one.get(f"/api/queries/{query}/results/{new}.json")).rows[0]


@pytest.mark.parametrize("gone", ["purged", "too large"])
async def test_a_result_that_is_not_stored_is_fetched_by_each_gateway(
    gateways: list[World], sandbox: Sandbox, gone: str
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    waits = asyncio.create_task(two.post("slow_seconds", max_age=0, parameters=SECONDS, wait=30))
    await awaited(two)
    if gone == "purged":
        await one.runtime.executions.flights.purge()
    else:
        await one.runtime.results.cache.purge()
    hold.release()
    assert (await waits).rows
    await ended(two, first)
    assert sandbox.counters.started == 1


async def test_a_purge_elsewhere_keeps_the_result_of_a_run_in_progress_from_being_stored(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    await two.runtime.operations.purge({"query": one.named["slow_seconds"]})
    await until(lambda: all(e.purged for e in one.runtime.executions.flights.running))
    hold.release()
    await ended(three, first)
    for world in gateways:
        later = await world.post("slow_seconds", max_age=3600, parameters=SECONDS, wait=10)
        assert ("hit" in later.cache) == (world is not one)
    assert sandbox.counters.posts[one.named["slow_seconds"]] == 2


async def test_a_query_key_shares_runs_too(gateways: list[World], sandbox: Sandbox) -> None:
    one = gateways[0]
    germany = {"country": "DE"}
    async with sandbox.hold():
        posts = [world.post("in_country", client="narrow", max_age=0, parameters=germany) for world in gateways]
        jobs = [reply.job["id"] for reply in await asyncio.gather(*posts)]
        await sandbox.wait_executions(1)
    results = {(await world.finish(job, client="narrow"))["query_result_id"] for world in gateways for job in jobs}
    assert len(results) == 1
    assert None not in results
    assert sandbox.counters.started == 1
    sent = sandbox.counters.posts[one.named["in_country"]]
    for world in gateways:
        assert (await world.post("in_country", client="narrow", max_age=60, parameters=germany)).rows
    assert sandbox.counters.posts[one.named["in_country"]] == sent


async def test_texts_of_a_query_key_that_redash_confuses_are_kept_apart_on_all_gateways(
    gateways: list[World], sandbox: Sandbox
) -> None:
    """Redash would join the runs, and the responses do not show whose rows they have (CONTRACT 7)."""
    one, two, _ = gateways
    options = [parameter("x", "enum", "ab", enumOptions="a b\nab")]
    query = sandbox.add_query("section", "select '{{ x }}' as x", parameters=options)
    own = f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n'
    for world in (one, two):
        world.reconfigure(world.text + own)
    hold = sandbox.hold()
    first = (await one.post(query, client="narrow", max_age=0, parameters={"x": "a b"})).job["id"]
    await sandbox.wait_executions(1)
    second = (await two.post(query, client="narrow", max_age=0, parameters={"x": "ab"})).job["id"]
    await until(lambda: two.runtime.executions.flights.running[0].can_respond.is_set)
    assert sandbox.counters.posts[query] == 1
    hold.release()
    for world, job, value in ((one, first, "a b"), (two, second, "ab")):
        await world.finish(job, client="narrow")
        again = await world.post(query, client="narrow", max_age=60, parameters={"x": value})
        assert again.rows == [{"x": value}]
    assert sandbox.counters.started == 2
