"""Redash in trouble: what is sent again, runs that outlive hiccups, nothing half kept, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.waiting import until, within
from support.world import World

POST_ROUTE = "/api/queries/<query_id>/results"
JOB_ROUTE = "/api/jobs/<job_id>"
RESULT_ROUTE = "/api/query_results/<query_result_id>.<filetype>"
DEFINITION_ROUTE = "/api/queries/<query_id>"
BREAKING = ("reset_before_headers", "reset_after_headers", "reset_in_body", "truncate")
QUICK = 'read_timeout = "300ms"\nbreaker_failures = 1000'


async def run(world: World, name: str = "by_country", **body: Any) -> dict[str, Any]:
    body.setdefault("max_age", 0)
    reply = await world.post(name, **body)
    assert reply.status == 200, reply.body
    return await world.finish(reply.job["id"])


async def at_rest(world: World) -> None:
    """Nothing runs, waits or holds a slot here any more."""
    runtime = world.runtime
    slots = runtime.upstream.slots, runtime.executions.flights.slots
    await until(lambda: not runtime.executions.flights.running and not any(s.taken or s.queued for s in slots))


def large_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]


# -- what is sent again


@pytest.mark.parametrize("kind", [*BREAKING, "status"])
async def test_a_get_is_sent_once_more(world: World, kind: str) -> None:
    # A GET changes nothing in Redash, and Redash closes its connections after every answer (CONTRACT 4).
    fault = world.sandbox.faults.add(kind, route=DEFINITION_ROUTE, count=1)
    assert (await world.get(f"/api/queries/{world.named['by_country']}")).status == 200
    assert fault.hits == 1


@pytest.mark.parametrize("kind", BREAKING)
async def test_a_post_that_may_have_begun_a_run_is_not_sent_again(world: World, kind: str) -> None:
    fault = world.sandbox.faults.add(kind, route=POST_ROUTE, method="POST")
    reply = await world.post("by_country", max_age=0)
    assert reply.status == 502
    assert fault.hits == 1
    assert world.sandbox.counters.posts[world.named["by_country"]] == 1


async def test_a_hanging_get_is_not_asked_twice(bare: World) -> None:
    # It has cost the caller the whole read_timeout already, and Redash a worker.
    await bare.start(upstream=QUICK)
    fault = bare.sandbox.faults.add("hang", route=DEFINITION_ROUTE)
    assert (await bare.get(f"/api/queries/{bare.named['by_country']}")).status == 504
    assert fault.hits == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_of_redash_are_not_followed(world: World, status: int) -> None:
    # A redirect would carry the key elsewhere, and Redash's go to a login page (CONTRACT 1).
    world.sandbox.faults.add("status", status=status)
    reply = await world.get(f"/api/queries/{world.named['by_country']}")
    assert reply.status not in (200, 500)
    assert "Location" not in reply.headers
    assert len({request.path_qs for request in world.sandbox.log}) == 1


async def test_a_429_of_redash_is_passed_on_and_is_no_outage(world: World) -> None:
    # CONTRACT 18: limits of user edits. Here the body is no JSON, so it is unusable; the breaker stays closed.
    world.sandbox.faults.add("status", status=429)
    for _ in range(10):
        assert (await world.get("/api/data_sources")).status in (429, 502)
    assert await world.metric("redash_gateway_breaker_open") == 0


async def test_redashs_ordinary_500_does_not_open_the_breaker(world: World) -> None:
    # 500 is its answer to bad input (CONTRACT 3).
    for number in range(12):
        assert (await world.get(f"/api/dashboards/no-such-{number}")).status in (404, 500)
    assert await world.metric("redash_gateway_breaker_open") == 0
    assert (await world.get("/api/queries")).status == 200


# -- runs outlive hiccups


@pytest.mark.parametrize("kind", [*BREAKING, "html", "garbage", "status"])
async def test_polls_that_fail_for_a_while_end_no_run(world: World, kind: str) -> None:
    hold = world.sandbox.hold()
    job = (await world.post("by_country", max_age=0)).job
    await world.sandbox.wait_executions(1)
    fault = world.sandbox.faults.add(kind, route=JOB_ROUTE, count=3, status=502)
    await world.sandbox.wait_until(lambda: fault.hits == 3)
    hold.release()
    assert (await world.finish(job["id"]))["status"] == 3
    assert world.sandbox.counters.started == 1


async def test_a_redash_that_is_restarted_during_a_run_costs_no_second_run(world: World) -> None:
    hold = world.sandbox.hold()
    job = (await world.post("by_country", max_age=0)).job
    await world.sandbox.wait_executions(1)
    await world.sandbox.disconnect()
    assert (await world.get(f"/api/jobs/{job['id']}")).job["status"] in (1, 2)
    hold.release()
    await world.sandbox.wait_finished(1)
    await world.sandbox.reconnect()
    assert (await world.finish(job["id"]))["status"] == 3
    assert world.sandbox.counters.started == 1


async def test_a_run_whose_redash_stays_away_fails_in_the_end(world: World) -> None:
    # Callers must not poll for ever: after a minute without any answer the job fails with the reason.
    async with world.sandbox.hold():
        job = (await world.post("by_country", max_age=0)).job
        await world.sandbox.wait_executions(1)
        await world.sandbox.disconnect()
        async with asyncio.timeout(10):
            while (await world.get(f"/api/jobs/{job['id']}")).job["status"] in (1, 2):
                world.clock.turn(20)
                await asyncio.sleep(0.05)
        job = (await world.get(f"/api/jobs/{job['id']}")).job
        assert job["status"] == 4
        assert "Redash" in job["error"]
        await world.sandbox.reconnect()


@pytest.mark.parametrize("kind", BREAKING)
async def test_a_result_whose_fetch_breaks_once_is_fetched_again(world: World, kind: str) -> None:
    fault = world.sandbox.faults.add(kind, route=RESULT_ROUTE, count=1)
    job = await run(world)
    assert (job["status"], fault.hits) == (3, 1)


@pytest.mark.parametrize("kind", ["reset_in_body", "truncate", "garbage", "html"])
async def test_a_result_that_comes_broken_for_some_seconds_is_not_lost(world: World, kind: str) -> None:
    # The run has ended; its rows lie in Redash. As with polls, a short outage throws nothing away.
    world.sandbox.faults.add(kind, route=RESULT_ROUTE, count=4)
    job = await run(world)
    assert (job["status"], job["error"]) == (3, "")
    assert world.sandbox.counters.started == 1


async def test_latency_of_redash_makes_one_question_of_many(world: World) -> None:
    world.sandbox.faults.add("latency", seconds=0.2)
    replies = await asyncio.gather(*(world.get(f"/api/queries/{world.named['by_country']}") for _ in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"] == 1


async def test_one_failure_reaches_everybody_who_joined_and_nobody_after(world: World) -> None:
    fault = world.sandbox.faults.add("html", route=POST_ROUTE, method="POST", count=1)
    world.sandbox.faults.add("latency", route=POST_ROUTE, seconds=0.2, count=1)
    first = await asyncio.gather(*(world.post("by_country", max_age=0) for _ in range(10)))
    assert {reply.status for reply in first} == {502}
    assert fault.hits == 1
    assert (await world.post("by_country", max_age=0)).status == 200


# -- nothing half kept


@pytest.mark.parametrize("kind", ["reset_in_body", "truncate"])
async def test_a_large_result_that_breaks_off_is_not_kept(world: World, tmp_path: Path, kind: str) -> None:
    query_id = world.named["large"]
    world.sandbox.faults.add(kind, route="/api/queries/<query_id>/results.<filetype>")
    with contextlib.suppress(aiohttp.ClientPayloadError):  # it breaks off here, too, if its beginning has gone out
        assert (await world.get(f"/api/queries/{query_id}/results.json")).status == 502
    await at_rest(world)
    await until(lambda: not large_files(tmp_path))
    world.sandbox.faults.clear()
    whole = await world.get(f"/api/queries/{query_id}/results.json")
    digest = hashlib.sha256(world.sandbox.database.results[whole.json["query_result"]["id"]].full()).digest()
    assert hashlib.sha256(whole.body).digest() == digest


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx"])
@pytest.mark.parametrize("kind", ["reset_in_body", "truncate", "html"])
async def test_a_rendering_that_comes_broken_is_not_kept(world: World, kind: str, form: str) -> None:
    path = f"/api/queries/{world.named['by_country']}/results.{form}"
    world.sandbox.faults.add(kind)
    assert (await world.get(path)).status == 502
    world.sandbox.faults.clear()
    reply = await world.get(path)
    assert reply.status == 200
    assert "hit" not in reply.cache
    assert b"<html>" not in reply.body


async def test_errors_are_never_kept(world: World) -> None:
    # CONTRACT 19.8.
    for status in (500, 503, 400, 404):
        world.sandbox.faults.add("status", status=status)
        for path in ("/api/queries", "/api/queries/1/results", "/api/query_results/1"):
            assert (await world.get(path)).status >= 400
        world.sandbox.faults.clear()
        world.clock.turn(20)
    for path in ("/api/queries", "/api/queries/1/results", "/api/query_results/1"):
        assert (await world.get(path)).status == 200


async def test_an_answer_for_another_result_is_not_believed(world: World) -> None:
    # A proxy that mixes up answers must not fill the cache with them.
    wanted, other = (world.sandbox.queries[world.named[n]].latest_query_data_id for n in ("kb1", "by_country"))
    assert wanted is not None
    assert other is not None
    results = world.sandbox.database.results
    mine = results[wanted]
    results[wanted] = results[other]
    assert (await world.get(f"/api/query_results/{wanted}")).status == 502
    results[wanted] = mine
    reply = await world.get(f"/api/query_results/{wanted}")
    assert reply.json["query_result"]["id"] == wanted


# -- nothing left over


async def test_callers_that_hang_up_leave_nothing_behind(bare: World) -> None:
    await bare.start(upstream="max_requests = 4\nmax_executions = 2")
    hold = bare.sandbox.hold()
    bare.sandbox.faults.add("latency", seconds=0.1)
    calls = [bare.get(f"/api/queries/{number + 1}") for number in range(10)]
    calls += [bare.post("above", max_age=0, wait=30, parameters={"min_amount": n}) for n in range(6)]
    tasks = [asyncio.create_task(call) for call in calls]
    await bare.sandbox.wait_requests(6)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    hold.release()
    await at_rest(bare)
    bare.sandbox.faults.clear()
    assert (await bare.get("/api/queries")).status == 200
    await at_rest(bare)  # a request that was read late asks for its definition, though its caller has left
    assert await bare.metric("redash_gateway_upstream_queue") == 0
    assert await bare.metric("redash_gateway_execution_waiters") == 0
    assert await bare.metric("redash_gateway_breaker_open") == 0


async def test_hanging_up_is_no_failure_of_redash(bare: World) -> None:
    await bare.start(upstream='breaker_failures = 1\nbreaker_reset = "10m"')
    fault = bare.sandbox.faults.add("hang", route="/api/queries")
    for number in range(3):
        task = asyncio.create_task(bare.get(f"/api/queries?page_size={number + 1}"))
        await bare.sandbox.wait_requests(number + 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    fault.clear()
    assert (await bare.get("/api/dashboards")).status == 200


async def test_slots_come_back_after_every_kind_of_trouble(bare: World) -> None:
    await bare.start(upstream=f"{QUICK}\nmax_requests = 2\nmax_executions = 1")
    for kind in (*BREAKING, "html", "garbage", "status", "hang", "reject_keys"):
        bare.sandbox.faults.add(kind)
        await asyncio.gather(*(bare.get(f"/api/queries/{number + 1}") for number in range(3)))
        await bare.post("by_country", max_age=0)
        bare.sandbox.faults.clear()
        await at_rest(bare)
    assert (await run(bare))["status"] == 3


async def test_a_gateway_stops_at_once_while_redash_hangs(bare: World) -> None:
    await bare.start(server="")
    bare.sandbox.faults.add("hang", route=JOB_ROUTE)
    await bare.post("by_country", max_age=0)
    async with within(4):
        await bare.restart()
    bare.sandbox.faults.clear()


# -- Redash says other things than it should


async def test_a_post_answered_with_rows_of_other_sql_is_run_again(world: World) -> None:
    # Redash's cache is blind to white space (CONTRACT 7); the SQL in the answer shows it.
    await world.sandbox.execute_directly(world.named["city_enum"], {"city": "NewYork"})
    reply = await world.post("city_enum", wait=10, max_age=3600, parameters={"city": "New York"})
    assert [row["city"] for row in reply.rows] == ["New York"]
    sent = [json.loads(r.body)["max_age"] for r in world.sandbox.log if r.route == POST_ROUTE]
    assert sent == [3600, 0]
