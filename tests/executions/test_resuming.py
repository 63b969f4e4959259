"""Runs of an earlier process are followed as soon as the ledger can be read, all of them, whatever else happens."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until
from support.world import World

from gateway.errors import BadRequest
from gateway.executions import revival
from gateway.store.sqlite import schema

SECONDS = {"seconds": 0}


async def begun(world: World, query: str | int = "slow_seconds", parameters: object = SECONDS) -> str:
    """A run that is in progress; its job id."""
    job = (await world.post(query, max_age=0, parameters=parameters)).job
    return str(job["id"])


async def test_of_several_runs_of_one_key_each_is_followed(world: World) -> None:
    # An edit between two requests: same query, same parameters, but the second must not get the rows of the first.
    query = world.named["slow_seconds"]
    hold = world.sandbox.hold()
    first = await begun(world)
    await world.sandbox.wait_executions(1)
    world.sandbox.edit_query(query, query="select sleep({{ seconds }}) as slept, 1 as edited")
    world.clock.turn(120)  # past definition_check
    second = await begun(world)
    await until(lambda: len(world.runtime.executions.flights.running) == 2)
    await world.restart()
    third = (await world.post(query, max_age=3600, parameters=SECONDS)).job["id"]
    hold.release()
    for job_id in (first, second, third):
        job = await world.finish(job_id)
        assert (job["status"], job["error"]) == (3, "")
    after = await world.get(f"/api/queries/{query}/results/{job['query_result_id']}.json")
    assert "edited" in after.rows[0]


async def test_a_ledger_that_can_be_read_only_later_is_not_an_empty_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk is full when the next process starts: it serves from memory, but knows that it does not know the jobs.
    hold = world.sandbox.hold()
    job_id = await begun(world)
    await world.sandbox.wait_executions(1)
    await world.stop()
    broken = True
    connect = schema.connect

    def failing(path: Path, *others: Any) -> Any:
        if broken:
            raise sqlite3.OperationalError("disk I/O error")
        return connect(path, *others)

    monkeypatch.setattr(schema, "connect", failing)
    await world.resume()
    assert (await world.post("by_country", max_age=3600, wait=20)).rows
    reply = await world.get(f"/api/jobs/{job_id}")
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert (await world.call("DELETE", f"/api/jobs/{job_id}")).status == 503
    broken = False
    await world.runtime.store.usable()
    await until(lambda: len(world.runtime.executions.flights.running) == 1)
    assert (await world.get(f"/api/jobs/{job_id}")).job["status"] in (1, 2)
    hold.release()
    assert (await world.finish(job_id))["status"] == 3
    assert world.sandbox.counters.posts[world.named["slow_seconds"]] == 1


async def queued(bare: World, max_age: int) -> tuple[int, str]:
    """A run that waits for the only slot: recorded, but without a job in Redash. Its query and its job id."""
    await bare.start(upstream="max_executions = 1")
    bare.sandbox.hold(bare.named["slow_seconds"])
    await begun(bare)
    await bare.sandbox.wait_executions(1)
    query_id = bare.named["in_country"]
    parameters = {"country": "FR"}
    return query_id, (await bare.post(query_id, max_age=max_age, parameters=parameters)).job["id"]


async def test_a_resumed_run_takes_what_its_callers_would_have_taken_at_first(bare: World) -> None:
    """Only results since its own start were taken: so Redash ran it again after a restart."""
    result = await bare.sandbox.execute_directly(bare.named["in_country"], {"country": "FR"})
    bare.clock.turn(100)
    query_id, job_id = await queued(bare, max_age=600)
    await bare.stop()
    bare.clock.turn(30)
    await bare.resume()
    bare.sandbox.release()
    assert (await bare.finish(job_id))["query_result_id"] == result.id
    assert bare.sandbox.counters.started_by_query[query_id] == 0


async def test_a_resumed_run_that_waits_for_its_slot_takes_what_it_made_before(bare: World) -> None:
    """Its POST had left before a kill. The next process counted the age from its own start, not from its own POST."""
    query_id, job_id = await queued(bare, max_age=0)
    result = await bare.sandbox.execute_directly(query_id, {"country": "FR"})  # as its POST would do
    await bare.stop()
    await bare.resume()
    bare.clock.turn(30)
    bare.sandbox.release()
    assert (await bare.finish(job_id))["query_result_id"] == result.id
    assert bare.sandbox.counters.started_by_query[query_id] == 0


@pytest.mark.parametrize("client", ["second", "narrow"])
async def test_results_that_only_an_unreadable_ledger_knows_are_not_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """It was 404: clients take that for the end of a result, and a bound client lost all of its own."""
    world.reconfigure(
        world.text.replace("[clients.second]", f"[clients.second]\nqueries = [{world.named['in_country']}]")
    )
    parameters = {"country": "FR"}
    job = (await world.post("in_country", client=client, max_age=0, parameters=parameters)).job
    result_id = (await world.finish(job["id"], client=client))["query_result_id"]
    await world.stop()
    connect = schema.connect

    def failing(path: Path, *others: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(schema, "connect", failing)
    await world.resume()
    reply = await world.get(f"/api/query_results/{result_id}", client=client)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    monkeypatch.setattr(schema, "connect", connect)
    await world.runtime.store.usable()
    assert (await world.get(f"/api/query_results/{result_id}", client=client)).status == 200
    assert (await world.get("/api/query_results/99999", client=client)).status == 404


async def test_runs_are_followed_though_redash_is_away_when_the_process_starts(world: World) -> None:
    async with world.sandbox.hold():
        job_id = await begun(world)
        await world.sandbox.wait_executions(1)
        await world.stop()
        fault, before = world.sandbox.faults.add("status", status=503), world.sandbox.counters.requests
        world.clock.turn(120)  # past definition_check
        await world.resume()
        await world.sandbox.wait_until(lambda: world.sandbox.counters.requests >= before + 2)
        assert (await world.get(f"/api/jobs/{job_id}")).job["status"] in (1, 2)
        fault.clear()
    assert (await world.finish(job_id))["status"] == 3


async def test_a_run_that_this_version_refuses_ends_with_a_reason_and_keeps_no_other_from_being_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = world.sandbox.hold()
    refused, followed = await begun(world, parameters={"seconds": 1}), await begun(world)
    await world.sandbox.wait_executions(2)
    await world.stop()
    parse = revival.parse_operation

    def stricter(match: Any, query: str, body: bytes) -> Any:
        if b'"seconds": 1' in body or b'"seconds":1' in body:
            raise BadRequest("No such seconds.")
        return parse(match, query, body)

    monkeypatch.setattr(revival, "parse_operation", stricter)
    await world.resume()
    hold.release()
    job = await world.finish(refused)
    assert (job["status"], job["error"]) == (4, "No such seconds.")
    assert (await world.finish(followed))["status"] == 3
