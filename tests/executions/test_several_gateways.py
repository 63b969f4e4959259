"""Gateways that share a Redis run each query once, and any of them serves every caller."""

from __future__ import annotations

import asyncio
from typing import Any

from support.gateways import SECONDS, awaited, begun, ended, lose_lease
from support.redis_server import RedisServer
from support.waiting import TICK_SECONDS, until, within
from support.world import World

from gateway.sandbox import Sandbox


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


async def test_a_job_id_is_good_on_every_gateway(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS, client="second")).job["id"]
    for job, client in ((first, "dashboard"), (second, "second")):
        for world in gateways:
            assert (await world.get(f"/api/jobs/{job}", client=client)).job["status"] in (1, 2)
            assert (await world.get(f"/api/jobs/{job}", client="sql")).status == 404
    waiting = [asyncio.create_task(world.get(f"/api/jobs/{first}", prefer="wait=30")) for world in gateways]
    for world in gateways:
        await awaited(world)
    hold.release()
    results = {reply.job["query_result_id"] for reply in await asyncio.gather(*waiting)}
    results |= {(await three.finish(second, client="second"))["query_result_id"]}
    assert len(results) == 1
    assert None not in results
    assert sandbox.counters.started == 1


async def test_a_file_is_waited_for_on_any_gateway(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    path = f"/api/queries/{one.named['slow_seconds']}/results.json?p_seconds=0&max_age=0"
    await begun(one)
    await one.stop()
    for world in (two, three):
        world.reconfigure(world.text.replace("[server]", '[server]\nmax_wait = "1s"'))
    hop = await two.get(path)
    assert hop.status == 307
    other = asyncio.create_task(three.get(f"{path.rpartition('/')[0]}/{hop.headers['Location']}"))
    await awaited(three)
    hold.release()
    assert (await other).status == 200
    assert sandbox.counters.started == 1


async def test_another_gateway_follows_the_job_of_a_leader_that_died(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    await lose_lease(one, redis)
    await until(lambda: two.runtime.leases.held == 1)
    hold.release()
    assert await ended(two, second) == await ended(three, first) == await ended(one, first)
    assert sandbox.counters.started == 1
    assert sandbox.counters.posts[one.named["slow_seconds"]] == 1


async def test_a_poll_is_enough_to_take_a_dead_leaders_run_over(
    gateways: list[World], sandbox: Sandbox, redis: RedisServer
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    await lose_lease(one, redis)
    assert (await two.get(f"/api/jobs/{first}")).job["status"] in (1, 2)
    await until(lambda: two.runtime.leases.held == 1)
    hold.release()
    await ended(two, first)
    assert sandbox.counters.started == 1


async def test_who_stops_leaves_the_run_to_others_at_once(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, three = gateways
    hold = sandbox.hold()
    first = await begun(one)
    second = (await two.post("slow_seconds", max_age=0, parameters=SECONDS)).job["id"]
    await one.stop()
    await until(lambda: two.runtime.leases.held == 1, timeout=1)
    hold.release()
    assert await ended(two, first) == await ended(three, second)
    assert sandbox.counters.started == 1


async def test_a_gateway_that_starts_leaves_runs_to_those_who_lead_them(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    await two.restart()
    assert not two.runtime.executions.flights.running
    hold.release()
    await ended(two, first)
    assert sandbox.counters.started == 1


async def test_a_gateway_that_starts_goes_on_with_runs_that_nobody_leads(
    gateways: list[World], sandbox: Sandbox
) -> None:
    one, two, _ = gateways
    hold = sandbox.hold()
    first = await begun(one)
    await one.stop()
    await two.restart()
    assert len(two.runtime.executions.flights.running) == 1
    hold.release()
    await ended(two, first)
    assert sandbox.counters.started == 1


async def test_the_text_of_a_failure_reaches_callers_of_all_gateways(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    async with sandbox.hold():
        jobs = [(await one.post("failing", max_age=0)).job["id"], (await two.post("failing", max_age=0)).job["id"]]
        await sandbox.wait_executions(1)
    shown = [await world.finish(job) for job in jobs for world in gateways]
    assert {job["status"] for job in shown} == {4}
    assert len({job["error"] for job in shown}) == 1
    assert sandbox.counters.started == 1


async def test_a_refused_run_is_refused_to_callers_of_each_gateway(gateways: list[World], sandbox: Sandbox) -> None:
    fault = sandbox.faults.add("status", route="/api/queries/<query_id>/results", method="POST", status=403)
    replies = await asyncio.gather(*(world.post("by_country", max_age=0) for world in gateways))
    fault.clear()
    assert {reply.status for reply in replies} == {502}
    assert len({reply.json["detail"] for reply in replies}) == 1


async def test_a_write_through_one_gateway_shows_on_all(gateways: list[World], sandbox: Sandbox) -> None:
    one, two, _ = gateways
    board, query = min(sandbox.database.dashboards), one.named["by_country"]
    widget = next(w["id"] for w in (await shown(two, board))["widgets"] if w["query_id"] == query)
    assert (await two.get(f"/api/dashboards/{board}")).status == 200  # from now on, both are cached
    assert (await one.call("DELETE", f"/api/widgets/{widget}", client="writer")).status == 200
    await until_not_shown(two, board, query)


async def shown(world: World, board: int) -> dict[str, Any]:
    reply = await world.call("GET", f"/api/dashboards/{board}/results?max_age=3600")
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def until_not_shown(world: World, board: int, query: int) -> None:
    """Wait until neither object nor results of a dashboard show a query: an announcement takes a moment."""
    async with within(4.0):  # less than what objects are cached for
        while True:
            results = {widget["query_id"] for widget in (await shown(world, board))["widgets"]}
            objects = (await world.get(f"/api/dashboards/{board}")).json["widgets"]
            named = {w["visualization"]["query"]["id"] for w in objects if (w.get("visualization") or {}).get("query")}
            if query not in results | named:
                return
            await asyncio.sleep(TICK_SECONDS)


async def test_every_gateway_shows_that_redash_has_started_a_run(gateways: list[World], sandbox: Sandbox) -> None:
    """A caller behind a load balancer would see 2, 1, 1, 2: Redash has only queued it when its record is written."""
    sandbox.hold_queue()
    hold = sandbox.hold()
    query = {"max_age": 0, "parameters": SECONDS}
    job = (await gateways[0].post("slow_seconds", **query)).job["id"]
    for world in gateways[1:]:
        await world.post("slow_seconds", **query)

    async def shown() -> list[int]:
        return [(await world.get(f"/api/jobs/{job}")).job["status"] for world in gateways]

    assert await shown() == [1, 1, 1]
    sandbox.jobs.queue_gate.release()
    async with within(5):
        while await shown() != [2, 2, 2]:  # noqa: ASYNC110 - the leader polls Redash
            await asyncio.sleep(TICK_SECONDS)
    hold.release()
    await ended(gateways[1], job)
