"""Jobs as callers see them: their own ids, cancelling, failures, lost jobs, the gateway's queue, restarts and kills."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.calls import TOKENS
from support.http import Reply
from support.inside import redash_jobs
from support.process import Process
from support.waiting import until, within
from support.world import World, token_table

from gateway.model import new_id
from gateway.sandbox import Sandbox

SECONDS = {"seconds": 0}
CANCELLED = "Query cancelled by user."


async def begun(world: World, name: str = "slow_seconds", *, client: str = "dashboard", **body: Any) -> str:
    """POST a run; returns its job id."""
    body.setdefault("max_age", 0)
    if name == "slow_seconds":
        body.setdefault("parameters", SECONDS)
    reply = await world.post(name, client=client, **body)
    assert reply.status == 200, reply.body
    return str(reply.job["id"])


async def running(world: World, job_id: str, *, client: str = "dashboard") -> None:
    """Wait until the sandbox runs something, and look at the job once."""
    await world.sandbox.wait_executions(1)
    assert (await world.get(f"/api/jobs/{job_id}", client=client)).job["status"] in (1, 2)


def cancels(world: World) -> int:
    return world.sandbox.counters.by_route["DELETE /api/jobs/<job_id>"]


def posts(world: World, name: str = "slow_seconds") -> int:
    return world.sandbox.counters.posts[world.named[name]]


# -- ids


def test_new_ids_are_random_uuids() -> None:
    # RFC 9562: version 4, variant 10. Clients may parse them.
    ids = [uuid.UUID(new_id()) for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert {(id.version, id.variant) for id in ids} == {(4, uuid.RFC_4122)}
    assert len({id.clock_seq_hi_variant >> 4 for id in ids}) == 4


async def test_job_ids_of_redash_never_reach_callers(world: World) -> None:
    # Redash does not check access to jobs (CONTRACT 9), so knowing an id gives access.
    hold = world.sandbox.hold()
    replies = [await world.post("slow_seconds", max_age=0, parameters=SECONDS) for _ in range(3)]
    ids = [str(reply.job["id"]) for reply in replies]
    replies += [await world.get(f"/api/jobs/{ids[0]}")]
    hold.release()
    await world.finish(ids[0])
    replies += [await world.get(f"/api/jobs/{job_id}") for job_id in ids]
    theirs = {path.rsplit("/", 1)[1] for path in (r.path_qs for r in world.sandbox.log) if "/api/jobs/" in path}
    assert theirs
    assert theirs.isdisjoint(ids)
    assert not [id for id in theirs for reply in replies if id.encode() in reply.body]
    assert len(set(ids)) == 3


async def test_nested_and_flat_routes_show_the_same_job(world: World) -> None:
    job_id = await begun(world)
    await world.finish(job_id)
    flat = await world.get(f"/api/jobs/{job_id}")
    nested = await world.get(f"/api/queries/{world.named['slow_seconds']}/jobs/{job_id}")
    assert flat.status == nested.status == 200
    assert flat.body == nested.body


async def test_query_key_clients_have_both_job_routes(world: World) -> None:
    # In Redash the flat route is 404 for a query key (CONTRACT 2).
    job_id = await begun(world, "in_country", client="narrow", parameters={"country": "FR"})
    for path in (f"/api/jobs/{job_id}", f"/api/queries/{world.named['in_country']}/jobs/{job_id}"):
        assert (await world.get(path, client="narrow")).status == 200


async def test_the_job_of_another_client_is_unknown(world: World) -> None:
    # In Redash anyone can read and cancel any job (CONTRACT 9); the gateway binds ids to clients (CONTRACT 20.7).
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    unknown = await world.get("/api/jobs/00000000-0000-4000-8000-000000000000", client="second")
    for method in ("GET", "DELETE"):
        for path in (f"/api/jobs/{job_id}", f"/api/queries/{world.named['slow_seconds']}/jobs/{job_id}"):
            reply = await world.call(method, path, client="second")
            assert reply.status == 404
            assert reply.json["detail"] == unknown.json["detail"]
    hold.release()
    assert (await world.finish(job_id))["status"] == 3
    assert cancels(world) == 0


@pytest.mark.parametrize("job_id", ["00000000-0000-4000-8000-000000000000", "garbage", "1", "A" * 36])
async def test_unknown_and_malformed_job_ids_are_404(world: World, job_id: str) -> None:
    # Redash responds 500 (CONTRACT 9), which does not help a caller.
    reply = await world.get(f"/api/jobs/{job_id}")
    assert reply.status == 404
    assert reply.json["message"]
    assert world.sandbox.counters.requests == 0


async def test_a_job_below_another_query_is_unknown(world: World) -> None:
    # CONTRACT 9: in Redash the path of any query shows any job. Here a wrong path is refused.
    job_id = await begun(world)
    await world.finish(job_id)
    reply = await world.get(f"/api/queries/{world.named['by_country']}/jobs/{job_id}")
    assert reply.status == 404


async def test_job_ids_expire_after_twelve_hours(world: World) -> None:
    # Redash's own lifetime of successful jobs (CONTRACT 9).
    job_id = await begun(world)
    await world.finish(job_id)
    world.clock.turn(12 * 3600 - 60)
    assert (await world.get(f"/api/jobs/{job_id}")).status == 200
    world.clock.turn(120)
    assert (await world.get(f"/api/jobs/{job_id}")).status == 404


async def test_jobs_have_the_fields_and_types_of_redash(world: World) -> None:
    # CONTRACT 9: updated_at is 0, but a text (start time, no Z) while the job is started.
    key = {"Authorization": f"Key {world.sandbox.user_keys['analyst']}"}
    shown: dict[str, list[dict[str, Any]]] = {"gateway": [], "redash": []}
    queue, run = world.sandbox.hold_queue(), world.sandbox.hold()
    for who, jobs in shown.items():
        base = world.url if who == "gateway" else world.sandbox.url
        headers = {"Authorization": f"Key {TOKENS['dashboard']}"} if who == "gateway" else key
        seconds = {"gateway": 0, "redash": 0.0}[who]  # other SQL, so that Redash does not join the two
        body = json.dumps({"max_age": 0, "parameters": {"seconds": seconds}})
        url = f"{base}/api/queries/{world.named['slow_seconds']}/results"
        async with world.session.post(url, data=body, headers=headers) as response:
            jobs.append((await response.json())["job"])
    for gate, status in ((queue, 2), (run, 3)):
        gate.release()
        for who, jobs in shown.items():
            base, headers = (
                (world.url, {"Authorization": f"Key {TOKENS['dashboard']}"})
                if who == "gateway"
                else (world.sandbox.url, key)
            )
            jobs.append(await until_status(world, f"{base}/api/jobs/{jobs[0]['id']}", headers, status))
    for ours, theirs in zip(shown["gateway"], shown["redash"], strict=True):
        assert list(ours) == list(theirs)
        assert {name: type(value) for name, value in ours.items()} == {n: type(v) for n, v in theirs.items()}
        assert ours["status"] == theirs["status"]
        assert ours["error"] == theirs["error"] == ""


async def until_status(world: World, url: str, headers: dict[str, str], status: int) -> dict[str, Any]:
    """Poll as a client does: the gateway's state changes only with its own polls of Redash."""
    async with asyncio.timeout(10):
        while True:
            async with world.session.get(url, headers=headers) as response:
                job: dict[str, Any] = (await response.json())["job"]
            if job["status"] == status:
                return job
            await asyncio.sleep(0.05)


# -- cancelling


async def test_one_caller_cancels_and_the_others_go_on(world: World) -> None:
    hold = world.sandbox.hold()
    leaves, stays = await begun(world), await begun(world, client="second")
    await running(world, leaves)
    reply = await world.call("DELETE", f"/api/jobs/{leaves}")
    assert (reply.status, reply.body) == (200, b"null")
    job = (await world.get(f"/api/jobs/{leaves}")).job
    assert (job["status"], job["error"]) == (4, CANCELLED)
    hold.release()
    assert (await world.finish(stays, client="second"))["status"] == 3
    assert cancels(world) == 0
    assert (await world.get(f"/api/jobs/{leaves}")).job["status"] == 4


async def test_the_last_cancellation_cancels_the_job_in_redash(world: World) -> None:
    async with world.sandbox.hold():
        ids = [await begun(world), await begun(world)]
        await running(world, ids[0])
        for left, job_id in enumerate(ids):
            assert cancels(world) == 0, left
            await world.call("DELETE", f"/api/jobs/{job_id}")
        await world.sandbox.wait_until(lambda: cancels(world) == 1)
        for job_id in ids:
            assert (await world.get(f"/api/jobs/{job_id}")).job["error"] == CANCELLED


async def test_the_nested_route_cancels_too(world: World) -> None:
    # In Redash, DELETE on the nested route is broken: always 500 (CONTRACT 9).
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        reply = await world.call("DELETE", f"/api/queries/{world.named['slow_seconds']}/jobs/{job_id}")
        assert (reply.status, reply.body) == (200, b"null")
        await world.sandbox.wait_until(lambda: cancels(world) == 1)


async def test_a_caller_that_has_not_polled_for_a_minute_does_not_keep_a_run_alive(world: World) -> None:
    # Some clients start runs and never poll: silence alone cancels nothing, but does not prevent a cancellation either.
    async with world.sandbox.hold():
        silent, active = await begun(world, client="second"), await begun(world)
        await running(world, active)
        world.clock.turn(61)
        assert (await world.get(f"/api/jobs/{active}")).job["status"] in (1, 2)
        assert cancels(world) == 0
        await world.call("DELETE", f"/api/jobs/{active}")
        await world.sandbox.wait_until(lambda: cancels(world) == 1)
        job = await world.finish(silent, client="second")
        assert (job["status"], job["error"]) == (4, CANCELLED)


async def test_a_waiting_caller_keeps_the_run_alive(world: World) -> None:
    hold = world.sandbox.hold()
    leaves = await begun(world)
    held = asyncio.create_task(world.post("slow_seconds", client="second", wait=20, max_age=0, parameters=SECONDS))
    await running(world, leaves)
    await joined(world, 2)
    await world.call("DELETE", f"/api/jobs/{leaves}")
    hold.release()
    assert (await held).rows
    assert cancels(world) == 0


async def joined(world: World, callers: int) -> None:
    """Wait until so many callers have joined the run (a waiting POST shows nothing until its end)."""
    await until(lambda: sum(x.callers for x in world.runtime.executions.flights.running) >= callers)


async def test_a_caller_that_waits_for_its_own_job_gets_its_cancellation(world: World) -> None:
    # A caller's own waiting GET is not another caller: DELETE ends the id, the GET, and Redash's job with it.
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        held = asyncio.create_task(world.get(f"/api/jobs/{job_id}", prefer="wait=5"))
        await until(lambda: any(x.waiters for x in world.runtime.executions.flights.running))
        await world.call("DELETE", f"/api/jobs/{job_id}")
        await world.sandbox.wait_until(lambda: cancels(world) == 1, timeout=4)
        job = (await held).job
        assert (job["status"], job["error"]) == (4, CANCELLED)


async def test_a_finished_job_stays_finished(world: World) -> None:
    # In Redash a DELETE turns status 3 into 4 and hides the result from everyone (CONTRACT 9).
    job_id = await begun(world)
    before = await world.finish(job_id)
    reply = await world.call("DELETE", f"/api/jobs/{job_id}")
    assert (reply.status, reply.body) == (200, b"null")
    assert (await world.get(f"/api/jobs/{job_id}")).job == before
    assert cancels(world) == 0


async def test_cancelling_twice_is_the_same_as_once(world: World) -> None:
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        for _ in range(2):
            assert (await world.call("DELETE", f"/api/jobs/{job_id}")).body == b"null"
        await world.sandbox.wait_until(lambda: cancels(world) == 1)


async def test_a_cancelled_run_is_not_joined_any_more(world: World) -> None:
    # As in Redash (CONTRACT 9): a request after the cancellation gets its own run, not the cancelled one.
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    await world.call("DELETE", f"/api/jobs/{job_id}")
    after = await begun(world, client="second")
    hold.release()
    job = await world.finish(after, client="second")
    assert (job["status"], job["error"]) == (3, "")
    assert posts(world) == 2


async def test_a_cancellation_is_not_remembered_as_a_failure(world: World) -> None:
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        await world.call("DELETE", f"/api/jobs/{job_id}")
        await world.finish(job_id)
        await ended(world)
    reply = await world.post("slow_seconds", wait=10, max_age=0, parameters=SECONDS)
    assert reply.rows


async def ended(world: World) -> None:
    await until(lambda: not world.runtime.executions.flights.running)


async def test_a_job_cancelled_in_the_gateways_queue_never_reaches_redash(bare: World) -> None:
    await bare.start(upstream="max_executions = 1")
    hold = bare.sandbox.hold()
    first = await begun(bare)
    queued = await begun(bare, "above", parameters={"min_amount": 1})
    await bare.call("DELETE", f"/api/jobs/{queued}")
    assert (await bare.get(f"/api/jobs/{queued}")).job["error"] == CANCELLED
    hold.release()
    assert (await bare.finish(first))["status"] == 3
    assert posts(bare, "above") == 0


async def test_a_query_keys_run_goes_on_when_its_job_is_cancelled(world: World) -> None:
    # A query key may not cancel in Redash (CONTRACT 2); the id ends nevertheless.
    hold = world.sandbox.hold()
    job_id = await begun(world, "in_country", client="narrow", parameters={"country": "FR"})
    await running(world, job_id, client="narrow")
    assert (await world.call("DELETE", f"/api/jobs/{job_id}", client="narrow")).status == 200
    assert (await world.get(f"/api/jobs/{job_id}", client="narrow")).job["error"] == CANCELLED
    hold.release()
    await world.sandbox.wait_finished(1)
    assert not [request for request in world.sandbox.log if request.method == "DELETE"]


# -- failures


async def test_the_text_of_a_failure_reaches_every_waiting_caller(world: World) -> None:
    async with world.sandbox.hold():
        ids = [await begun(world, "failing", client=client) for client in ("dashboard", "second")]
        held = [asyncio.create_task(world.post("failing", wait=10, max_age=0)) for _ in range(5)]
        await joined(world, 7)
    clients = ("dashboard", "second")
    jobs = [await world.finish(id, client=client) for id, client in zip(ids, clients, strict=True)]
    jobs += [reply.job for reply in await asyncio.gather(*held)]
    assert {job["status"] for job in jobs} == {4}
    assert {job["error"] for job in jobs} == {"no such table: no_such_table"}
    assert world.sandbox.counters.started == 1


async def test_a_failure_is_remembered_for_failure_ttl_and_ignored_with_max_age_zero(world: World) -> None:
    # Fifty dashboards must not restart a failing query at once; a request that demands a run gets one.
    await world.finish(await begun(world, "failing"))
    assert posts(world, "failing") == 1
    again = await world.post("failing", max_age=600)
    assert (await world.finish(again.job["id"]))["error"] == "no such table: no_such_table"
    assert posts(world, "failing") == 1
    await world.finish(await begun(world, "failing", max_age=0))
    assert posts(world, "failing") == 2
    world.clock.turn(2.5)
    await world.finish(await begun(world, "failing", max_age=600))
    assert posts(world, "failing") == 3


async def test_a_failure_ends_with_an_edit_of_the_query(world: World) -> None:
    # The remembered failure belongs to the old definition.
    await world.finish(await begun(world, "failing"))
    world.sandbox.edit_query(world.named["failing"], query="select 1 as fixed")
    world.runtime.results.definitions.drop(world.named["failing"])
    reply = await world.post("failing", wait=10, max_age=600)
    assert reply.rows == [{"fixed": 1}]


async def test_a_failure_without_text_is_polled_once_more(world: World) -> None:
    # CONTRACT 9: status 4 with an empty error is a worker that failed outside the query; another poll may know more.
    body = {"query": "select 1", "data_source_id": 1, "max_age": 0, "query_id": "bogus"}
    reply = await world.call("POST", "/api/query_results", body, client="sql", headers={"Prefer": "wait=10"})
    assert reply.job["status"] == 4
    assert reply.job["error"]
    assert world.sandbox.counters.by_route["GET /api/jobs/<job_id>"] >= 2


async def test_a_failure_without_text_that_a_second_poll_corrects_is_ignored(world: World) -> None:
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    theirs = redash_jobs(world.sandbox)[0]
    polls = world.sandbox.counters.by_route["GET /api/jobs/<job_id>"]
    theirs.status = 4
    await world.sandbox.wait_until(lambda: world.sandbox.counters.by_route["GET /api/jobs/<job_id>"] >= polls + 1)
    theirs.status = 2
    hold.release()
    assert (await world.finish(job_id))["status"] == 3


async def test_a_lost_job_becomes_a_failure_with_that_text(world: World) -> None:
    # Redash responds 500 for a job that it does not know, e.g. after a restart of its Redis (CONTRACT 9).
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        world.sandbox.lose_jobs()
        job = await world.finish(job_id)
    assert job["status"] == 4
    assert "Redash no longer knows this job" in job["error"]
    assert await world.metric("redash_gateway_executions_total", outcome="lost") == 1


async def test_one_failed_poll_does_not_mean_a_lost_job(world: World) -> None:
    # 500 is Redash's response for unknown jobs, but one alone may be a hiccup: the job is polled once more.
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    fault = world.sandbox.faults.add("status", status=500, route="/api/jobs/<job_id>", count=1)
    reset = world.sandbox.faults.add("reset_before_headers", route="/api/jobs/<job_id>", count=3)
    await world.sandbox.wait_until(lambda: fault.hits >= 1 and reset.hits >= 3)
    hold.release()
    assert (await world.finish(job_id))["status"] == 3


async def test_a_poll_that_fails_does_not_confirm_that_a_job_is_lost(world: World) -> None:
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    unknown = world.sandbox.faults.add("status", status=500, route="/api/jobs/<job_id>", count=1)
    await world.sandbox.wait_until(lambda: unknown.hits == 1)
    reset = world.sandbox.faults.add("reset_before_headers", route="/api/jobs/<job_id>", count=2)  # a GET is sent twice
    await world.sandbox.wait_until(lambda: reset.hits == 2)
    hold.release()
    assert (await world.finish(job_id))["status"] == 3


async def test_a_result_that_cannot_be_fetched_at_once_is_not_lost(world: World) -> None:
    # The run has ended and its rows are in Redash: a short network outage must not waste an hour's work.
    route = "/api/query_results/<query_result_id>.<filetype>"
    fault = world.sandbox.faults.add("reset_before_headers", route=route, count=3)
    job = await world.finish(await begun(world))
    assert fault.hits >= 1
    assert (job["status"], job["error"]) == (3, "")


async def test_refusals_in_the_shape_of_a_job_are_relayed_unchanged(world: World) -> None:
    # CONTRACT 3: 400 with `{"job": {"status": 4, "error": …}}` and no id: missing parameters, paused source.
    reply = await world.post("in_country", max_age=0, parameters={})
    assert reply.status == 400
    assert reply.json == {"job": {"status": 4, "error": "Missing parameter value for: country"}}
    world.sandbox.database.sources[1].paused = True
    reply = await world.post("by_country", max_age=0)
    assert reply.status == 400
    assert "is paused" in reply.job["error"]


# -- the gateway's queue


async def test_a_queued_run_has_a_job_at_once(bare: World) -> None:
    await bare.start(upstream="max_executions = 1")
    async with bare.sandbox.hold():
        await begun(bare)
        async with within(2):
            reply = await bare.post("above", max_age=0, parameters={"min_amount": 1})
        assert reply.job["status"] == 1
        assert (await bare.get(f"/api/jobs/{reply.job['id']}")).job["status"] == 1
        assert posts(bare, "above") == 0
    assert (await bare.finish(reply.job["id"]))["status"] == 3


async def test_clients_take_turns_in_the_queue(bare: World) -> None:
    # One client that starts many runs must not make the others wait for all of them.
    await bare.start(upstream="max_executions = 1")
    hold = bare.sandbox.hold()
    many = [await begun(bare, "above", parameters={"min_amount": n}) for n in range(4)]
    one = await begun(bare, "above", client="second", parameters={"min_amount": 99})
    hold.release()
    for job_id in many:
        await bare.finish(job_id)
    assert (await bare.finish(one, client="second"))["status"] == 3
    sent = [json.loads(r.body)["parameters"]["min_amount"] for r in bare.sandbox.log if r.method == "POST"]
    assert sent.index(99) == 2  # after the one that ran and one more of the busy client


async def test_a_run_without_a_slot_in_time_fails_with_a_reason(bare: World) -> None:
    await bare.start(upstream='max_executions = 1\nqueue_timeout = "200ms"')
    async with bare.sandbox.hold():
        await begun(bare)
        job = await bare.finish(await begun(bare, "above", parameters={"min_amount": 1}))
        assert job["status"] == 4
        assert "busy" in job["error"]
    assert posts(bare, "above") == 0


# -- restarts


async def test_a_restart_continues_queued_runs(bare: World) -> None:
    await bare.start(upstream="max_executions = 1")
    hold = bare.sandbox.hold()
    first = await begun(bare)
    queued = await begun(bare, "above", parameters={"min_amount": 1})
    await bare.restart()
    hold.release()
    for job_id in (first, queued):
        assert (await bare.finish(job_id))["status"] == 3
    assert bare.sandbox.counters.started == 2
    assert posts(bare) == 1


async def test_a_restart_after_the_end_still_knows_the_job_and_the_result(world: World) -> None:
    job_id = await begun(world)
    before = await world.finish(job_id)
    await world.restart()
    requests = world.sandbox.counters.requests
    assert (await world.get(f"/api/jobs/{job_id}")).job == before
    reply = await world.get(f"/api/queries/{world.named['slow_seconds']}/results/{before['query_result_id']}.json")
    assert reply.rows
    assert world.sandbox.counters.by_route["GET /api/query_results/<query_result_id>.<filetype>"] == 1
    assert world.sandbox.counters.requests <= requests + 1  # the definition may be read again


async def test_a_restart_keeps_failures_and_cancellations(world: World) -> None:
    failed = await begun(world, "failing")
    await world.finish(failed)
    async with world.sandbox.hold():
        cancelled = await begun(world)
        await running(world, cancelled)
        await world.call("DELETE", f"/api/jobs/{cancelled}")
        await ended(world)
        await world.restart()
        assert (await world.get(f"/api/jobs/{failed}")).job["error"] == "no such table: no_such_table"
        assert (await world.get(f"/api/jobs/{cancelled}")).job["error"] == CANCELLED


async def test_a_caller_after_a_restart_joins_the_continued_run(world: World) -> None:
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await running(world, job_id)
    await world.restart()
    after = await begun(world, client="second")
    world.clock.turn(2)  # clear of the second by which Redash's clock is uncertain
    hold.release()
    assert (await world.finish(job_id))["status"] == (await world.finish(after, client="second"))["status"] == 3
    assert world.sandbox.counters.started == 1
    assert posts(world) == 1


async def test_after_a_restart_a_cancellation_still_respects_the_others(world: World) -> None:
    # `second` polled a moment ago; a restart of the gateway meanwhile must not cancel its run.
    hold = world.sandbox.hold()
    leaves, stays = await begun(world), await begun(world, client="second")
    await running(world, leaves)
    await world.get(f"/api/jobs/{stays}", client="second")
    await world.restart()
    await world.call("DELETE", f"/api/jobs/{leaves}")
    hold.release()
    job = await world.finish(stays, client="second")
    assert (job["status"], job["error"]) == (3, "")
    assert cancels(world) == 0


async def test_a_run_whose_job_redash_lost_during_a_restart_fails_with_a_reason(world: World) -> None:
    async with world.sandbox.hold():
        job_id = await begun(world)
        await running(world, job_id)
        await world.stop()
        world.sandbox.lose_jobs()
        await world.resume()
        job = await world.finish(job_id)
    assert job["status"] == 4
    assert "Redash no longer knows this job" in job["error"]


# -- a kill of the real process


async def call(session: aiohttp.ClientSession, method: str, url: str, body: object = None) -> Reply:
    headers = {"Authorization": f"Key {TOKENS['dashboard']}", "Prefer": "wait=10" if method == "GET" else ""}
    data = None if body is None else json.dumps(body).encode()
    async with session.request(method, url, data=data, headers=headers) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_gateway_follows_the_run_when_it_is_started_again(
    written: Path, sandbox: Sandbox, blow: signal.Signals
) -> None:
    # What the ledger has accepted survives a kill -9; Redash sees one execution, and callers keep their job ids.
    env = token_table(sandbox)
    hold = sandbox.hold()
    query_id = sandbox.named["slow_seconds"]
    first = await Process.start("serve", "-c", str(written), cwd=written.parent, env=env)
    try:
        async with aiohttp.ClientSession() as session:
            url, _ = await first.serving()
            wanted = {"max_age": 0, "parameters": SECONDS}
            reply = await call(session, "POST", f"{url}/api/queries/{query_id}/results", wanted)
            await sandbox.wait_executions(1)
            first.child.send_signal(blow)
            await first.ended()
        second = await Process.start("serve", "-c", str(written), cwd=written.parent, env=env)
        try:
            url, _ = await second.serving()
            hold.release()
            async with aiohttp.ClientSession() as session:
                job = (await call(session, "GET", f"{url}/api/jobs/{reply.job['id']}")).job
                assert (job["status"], job["error"]) == (3, "")
                result = f"{url}/api/queries/{query_id}/results/{job['query_result_id']}.json"
                assert (await call(session, "GET", result)).rows
        finally:
            await second.kill()
    finally:
        await first.kill()
    assert sandbox.counters.started == 1
    assert sandbox.counters.posts[query_id] == 1


async def test_a_run_that_a_stop_leaves_to_the_next_process_is_counted_there(bare: World) -> None:
    # It is not cancelled, and how long it took cannot be said: for a while nobody watched it.
    await bare.start()
    async with bare.sandbox.hold():
        job = (await bare.post("slow_seconds", max_age=0, parameters={"seconds": 0})).job
        await bare.sandbox.wait_executions(1)
        first = bare.runtime
        await bare.restart()
        assert sum(first.telemetry.metrics.executions.values()) == 0
    assert (await bare.finish(job["id"]))["status"] == 3
    assert await bare.metric("redash_gateway_executions_total", outcome="success") == 1
    assert await bare.metric("redash_gateway_executions_total", outcome="cancelled") == 0
    assert await bare.metric("redash_gateway_execution_duration_seconds_count") == 0


async def test_a_run_that_follows_a_cancelled_one_is_not_cancelled_with_it(world: World) -> None:
    """Redash gives both the same job until it has heard of the DELETE, so the later run waits for that."""
    world.sandbox.hold()
    first = (await world.post("now", max_age=0)).job["id"]
    await world.sandbox.wait_executions(1)
    (run,) = world.runtime.executions.flights.running
    slow = world.sandbox.faults.add("latency", route="/api/jobs/<job_id>", method="DELETE", seconds=0.5)
    leaving = asyncio.create_task(world.call("DELETE", f"/api/jobs/{first}"))
    await until(lambda: run.cancelling)
    second = (await world.post("now", max_age=0)).job["id"]
    await leaving
    slow.clear()
    world.sandbox.release()
    assert (await world.finish(second))["status"] == 3
    assert world.started == 2
