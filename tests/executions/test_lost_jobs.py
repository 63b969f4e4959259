"""Jobs that Redash has lost: up to version 8 they look queued for ever. Every run ends, no slot is held for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.inside import polling_every, redash_jobs
from support.waiting import until, within
from support.world import World

DOUBT = 31.0
"""Seconds after which a job that still looks queued is asked about by POSTing again."""


@pytest.fixture
def redash_version() -> str:
    return "8"


@pytest.fixture(autouse=True)
def quick_polls() -> Iterator[None]:
    """Polls follow each other quickly, whatever the clock says."""
    with polling_every(0.01):
        yield


async def begun(world: World, name: str = "by_country", *, client: str = "dashboard", **body: Any) -> str:
    """POST a run; its job id, when Redash has a job for it."""
    jobs = world.sandbox.counters.jobs
    body.setdefault("max_age", 0)
    reply = await world.post(name, client=client, **body)
    await world.sandbox.wait_until(lambda: world.sandbox.counters.jobs > jobs)
    return str(reply.job["id"])


async def begun_text(world: World, text: str = "select 1 as one") -> str:
    body = {"query": text, "data_source_id": 1, "max_age": 0}
    return str((await world.call("POST", "/api/query_results", body, client="sql")).job["id"])


def polls(world: World) -> int:
    count: int = world.sandbox.counters.by_route["GET /api/jobs/<job_id>"]
    return count


async def polled(world: World, more: int = 2) -> None:
    """Wait until the gateway has polled Redash again; the last of these polls began after this call."""
    seen = polls(world)
    await world.sandbox.wait_until(lambda: polls(world) >= seen + more)


def posts(world: World, name: str = "by_country") -> int:
    return world.sandbox.counters.posts[world.named[name]]


def max_ages(world: World) -> list[object]:
    """What each POST that executes has asked for."""
    return [
        json.loads(r.body)["max_age"] for r in world.sandbox.log if r.method == "POST" and r.route.endswith("results")
    ]


async def test_a_lost_job_is_posted_again_and_the_new_one_followed(world: World) -> None:
    # When Redis has lost its data, version 8 shows queued jobs at status 1 as before. Only a new POST tells.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        await polled(world)
        world.sandbox.lose_jobs()
    await polled(world)
    assert posts(world) == 1  # it may wait: nothing is done at once
    world.clock.turn(DOUBT)
    assert (await world.finish(job_id))["status"] == 3
    assert (posts(world), world.sandbox.counters.started) == (2, 1)
    assert await world.metric("redash_gateway_executions_total", outcome="success") == 1


async def test_a_long_queue_is_not_taken_for_a_loss(world: World) -> None:
    # Redash confirms a waiting job by its id: an identical POST joins it (CONTRACT 9).
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        for count in range(2, 8):
            world.clock.turn(DOUBT)
            await world.sandbox.wait_until(lambda count=count: posts(world) == count)
            await polled(world)
        assert posts(world) == 7  # once for each time
        assert (await world.get(f"/api/jobs/{job_id}")).job["status"] == 1
    assert (await world.finish(job_id))["status"] == 3
    assert (world.sandbox.counters.jobs, world.sandbox.counters.started) == (1, 1)


@pytest.mark.parametrize("redash_version", ["10", "25", "26"])
async def test_newer_versions_are_not_asked_again(world: World) -> None:
    # There a lost job is 500, so that one with status 1 does wait.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        for _ in range(5):
            world.clock.turn(10 * DOUBT)
            await polled(world)
    assert (await world.finish(job_id))["status"] == 3
    assert (posts(world), world.sandbox.counters.started) == (1, 1)


async def test_a_running_job_is_not_asked_about(world: World) -> None:
    with world.sandbox.hold():
        job_id = await begun(world)
        await world.sandbox.wait_executions(1)
        for _ in range(3):
            world.clock.turn(10 * DOUBT)
            await polled(world)
    assert (await world.finish(job_id))["status"] == 3
    assert posts(world) == 1


async def test_a_run_that_ended_in_spite_of_the_loss_is_not_repeated(world: World) -> None:
    # The same POST brings its result at once, where the callers accept results of some age.
    world.clock.turn(3600)  # older results do not count
    with world.sandbox.hold():
        job_id = await begun(world, max_age=600)
        await world.sandbox.wait_executions(1)
        world.sandbox.lose_jobs()
    await world.sandbox.wait_until(lambda: world.sandbox.counters.finished == 1 and world.sandbox.jobs.idle)
    world.clock.turn(DOUBT)
    assert (await world.finish(job_id))["status"] == 3
    assert (posts(world), world.sandbox.counters.started) == (2, 1)


async def test_max_age_zero_gets_a_run_of_its_own_after_a_loss(world: World) -> None:
    # The run that was lost may have ended before the second caller asked; its rows would be too old for it.
    world.clock.turn(3600)
    with world.sandbox.hold():
        job_id = await begun(world, max_age=600)
        await world.sandbox.wait_executions(1)
        world.sandbox.lose_jobs()
    await world.sandbox.wait_until(lambda: world.sandbox.counters.finished == 1 and world.sandbox.jobs.idle)
    world.clock.turn(1)
    joined = (await world.post("by_country", max_age=0)).job["id"]
    world.clock.turn(DOUBT)
    results = [(await world.finish(id))["query_result_id"] for id in (job_id, joined)]
    assert results[0] == results[1]
    assert max_ages(world) == [600, 0]
    assert world.sandbox.counters.started == 2


async def test_who_joins_while_the_post_is_repeated_gets_no_older_rows(world: World) -> None:
    world.clock.turn(3600)
    with world.sandbox.hold():
        job_id = await begun(world, max_age=600)
        await world.sandbox.wait_executions(1)
        world.sandbox.lose_jobs()
    await world.sandbox.wait_until(lambda: world.sandbox.counters.finished == 1 and world.sandbox.jobs.idle)
    slow = world.sandbox.faults.add("latency", method="POST", seconds=0.2, count=1)
    world.clock.turn(DOUBT)
    await until(lambda: slow.hits == 1)
    joined = (await world.post("by_country", max_age=0)).job["id"]
    assert (await world.finish(joined))["status"] == (await world.finish(job_id))["status"] == 3
    assert max_ages(world) == [600, 600, 0]
    assert world.sandbox.counters.started == 2


async def test_all_kinds_of_runs_end_after_a_loss(bare: World) -> None:
    # Like FLUSHDB in Redis: saved queries, free SQL, a query key and a second caller of each. No slot stays in use.
    await bare.start(upstream="max_executions = 3")
    country = {"country": "FR"}
    with bare.sandbox.hold_queue():
        ids = [(await begun(bare), "dashboard"), (await begun_text(bare), "sql")]
        ids += [(await begun(bare, "in_country", client="narrow", parameters=country), "narrow")]
        ids += [(str((await bare.post("by_country", client="second", max_age=0)).job["id"]), "second")]
        waiting = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job["id"]
        bare.sandbox.lose_jobs()
    bare.clock.turn(DOUBT)
    async with within(10):
        for job_id, client in [*ids, (waiting, "dashboard")]:
            job = await bare.finish(job_id, client=client)
            assert (job["status"], job["error"]) == (3, "")
        await bare.rows("by_country", max_age=0)
    assert bare.runtime.executions.flights.slots.free()
    assert bare.sandbox.counters.started == 5


async def test_free_sql_that_has_begun_is_not_sent_again(world: World) -> None:
    # It may have changed something, and may still do so. A run of a saved query may be repeated (docs/clients.md).
    with world.sandbox.hold():
        job_id = await begun_text(world)
        await world.sandbox.wait_executions(1)
        await polled(world)
        world.sandbox.lose_jobs()
        world.clock.turn(DOUBT)
        await polled(world)
        world.clock.turn(DOUBT)
        job = await world.finish(job_id, client="sql")
    assert job["status"] == 4
    assert "Redash no longer knows this job" in job["error"]
    assert world.sandbox.counters.started == 1
    assert await world.metric("redash_gateway_executions_total", outcome="lost") == 1


async def test_a_query_key_whose_rows_may_be_mixed_up_forces_a_run(bare: World) -> None:
    # Its results do not show their SQL: any result that Redash has may be that of the other text (CONTRACT 7).
    parameter = {"name": "x", "title": "x", "type": "enum", "value": "ab", "enumOptions": "a b\nab"}
    query = bare.sandbox.add_query("one", "select '{{x}}' as x", parameters=[parameter])
    own = f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n'
    await bare.start(own)
    with bare.sandbox.hold_queue():
        reply = await bare.post(query, client="narrow", max_age=600, parameters={"x": "a b"})
        await bare.sandbox.wait_until(lambda: bare.sandbox.counters.jobs == 1)
        bare.sandbox.lose_jobs()
    bare.clock.turn(DOUBT)
    assert (await bare.finish(reply.job["id"], client="narrow"))["status"] == 3
    assert max_ages(bare)[:2] == [0, 0]


async def test_the_second_post_is_judged_like_the_first(world: World) -> None:
    # Nothing that executes leaves on a definition older than `definition_check`: the right to it may be gone.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        world.sandbox.lose_jobs()
        world.sandbox.database.sources[1].groups.clear()
        world.clock.turn(61)
        job = await world.finish(job_id)
    assert job["status"] == 4
    assert "permission" in job["error"]
    assert posts(world) == 1


async def test_a_paused_source_ends_the_run_with_redashs_reason(world: World) -> None:
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        world.sandbox.lose_jobs()
        world.sandbox.database.sources[1].paused = True
        world.clock.turn(DOUBT)
        job = await world.finish(job_id)
    assert job["status"] == 4
    assert "paused" in job["error"]


async def test_an_outage_at_the_second_post_is_not_the_end(world: World) -> None:
    # But such a POST may have started a run all the same: it is not sent again at each poll.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        world.sandbox.lose_jobs()
        fault = world.sandbox.faults.add("reset_before_headers", method="POST", count=1)
        world.clock.turn(DOUBT)
        await until(lambda: fault.hits == 1)
        await polled(world, 5)
        assert posts(world) == 2
        world.clock.turn(DOUBT)
        await world.sandbox.wait_until(lambda: posts(world) == 3)
    assert (await world.finish(job_id))["status"] == 3
    assert world.sandbox.counters.started == 1


async def test_a_run_ends_when_nobody_responds_to_the_second_post(world: World) -> None:
    # Though the polls are responded to: a lost job looks queued in each of them.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        world.sandbox.lose_jobs()
        world.sandbox.faults.add("reset_before_headers", method="POST")
        for count in range(2, 5):
            await polled(world, 3)
            world.clock.turn(DOUBT)
            await world.sandbox.wait_until(lambda count=count: posts(world) == count)
        job = await world.finish(job_id)
    assert job["status"] == 4
    assert "Redash" in job["error"]
    assert posts(world) == 4


async def test_a_cancelled_run_that_waits_in_redash_ends_at_once(world: World) -> None:
    # Version 8 keeps such a job at status 1 until a worker takes it.
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        await world.call("DELETE", f"/api/jobs/{job_id}")
        async with within(5):
            await until(lambda: world.runtime.executions.flights.running == [])
    assert (await world.get(f"/api/jobs/{job_id}")).job["status"] == 4
    assert posts(world) == 1


async def test_the_next_process_asks_about_a_lost_job_too(world: World) -> None:
    # It is in the ledger; the job of the second POST replaces it there.
    world.clock.turn(10)  # else the sample result counts as one of this run, whose age is in whole seconds
    with world.sandbox.hold_queue():
        job_id = await begun(world)
        await world.stop()
        world.sandbox.lose_jobs()
        await world.resume()
        await polled(world)
        world.clock.turn(DOUBT)
        await world.sandbox.wait_until(lambda: posts(world) == 2)
        await polled(world)
        await world.restart()
        await polled(world)
        assert [job.id for job in redash_jobs(world.sandbox)] == [last_polled(world)]
    assert (await world.finish(job_id))["status"] == 3
    assert (posts(world), world.sandbox.counters.started) == (2, 1)


def last_polled(world: World) -> str:
    return [r.path_qs for r in world.sandbox.log if r.route == "/api/jobs/<job_id>"][-1].rpartition("/")[2]


@pytest.mark.parametrize("redash_version", ["8", "26"])
@pytest.mark.parametrize("queued", [True, False])
async def test_no_run_is_followed_for_longer_than_twelve_hours(world: World, queued: bool) -> None:
    # Job ids live so long, Redash's and ours (CONTRACT 9): nobody could read the end of a longer run.
    async with world.sandbox.hold_queue() if queued else world.sandbox.hold():
        job_id = await begun(world)
        await polled(world)
        world.clock.turn(12 * 3600 - 60)
        await polled(world, 4)
        assert len(world.runtime.executions.flights.running) == 1
        world.clock.turn(30)
        later = (await world.post("by_country", max_age=0)).job["id"]  # joins it
        world.clock.turn(31)
        job = await world.finish(later)
        assert world.runtime.executions.flights.running == []
        assert world.runtime.executions.flights.slots.free()
    assert job["status"] == 4
    assert "12 hours" in job["error"]
    assert job_id != later
    assert await world.metric("redash_gateway_executions_total", outcome="lost") == 1
