"""Budgets: how many seconds of runs a client may cause, and what it gets beyond that."""

from __future__ import annotations

import dataclasses
import re
from random import Random
from typing import Any

import pytest
from support.documents import ROOT
from support.fault_proxy import FaultProxy
from support.http import Reply
from support.waiting import until
from support.world import World

from gateway.errors import BudgetSpent
from gateway.executions.explanation import Question
from gateway.outcome import Sender
from gateway.sandbox import warehouse

SECOND = {"seconds": 0}
KEY = {"country": "DE"}


class Took:
    """What the sandbox says that each run takes from now on, in seconds."""

    seconds = 0.0


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> Took:
    made, execute = Took(), warehouse.Run.execute

    def measured(run: warehouse.Run) -> warehouse.Table:
        return dataclasses.replace(execute(run), runtime=made.seconds)

    monkeypatch.setattr(warehouse.Run, "execute", measured)
    return made


async def budgeted(bare: World, more: str = "", budget: str = '"10m/h"', **tables: str) -> World:
    await bare.start(dashboard=f"budget = {budget}\n{more}", **tables)
    return bare


def spent(world: World, client: str = "dashboard") -> tuple[float, float]:
    """What is spent and what is reserved of the first budget."""
    state = world.runtime.executions.budgets.states(client)[0]
    return round(state.spent, 1), round(state.reserved, 1)


async def run(world: World, name: str = "in_country", *, max_age: int | None = 0, **more: Any) -> Reply:
    body = {"parameters": KEY} if name == "in_country" else {}
    return await world.post(name, wait=10, **({} if max_age is None else {"max_age": max_age}), **(body | more))


async def test_runs_are_counted_and_beyond_the_budget_refused_until_it_opens(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 250.0
    for expected in (250.0, 500.0):
        assert (await run(world)).status == 200
        assert spent(world) == (expected, 0.0)
    refused = await run(world)  # 500 + 250 seconds would be more than ten minutes
    assert refused.status == 429
    assert refused.json["detail"] == (
        "The last run of this query took 250 s. Client 'dashboard' has spent or reserved too much of its budget "
        "(10m/h) to start it now."
    )
    assert world.started == 2
    opens = int(refused.headers["Retry-After"])
    assert 3595 <= opens <= 3600 + 2 * 30
    world.clock.turn(opens + 1)
    assert (await run(world)).status == 200


async def test_hits_and_joined_runs_and_other_clients_cost_nothing(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 590.0
    hold = world.sandbox.hold()
    first = await world.post("in_country", max_age=0, parameters=KEY, client="second")
    await world.sandbox.wait_executions(1)
    joined = await world.post("in_country", max_age=60, parameters=KEY)
    hold.release()
    await world.finish(joined.job["id"])
    await world.finish(first.job["id"], client="second")
    assert (await run(world, max_age=60)).cache.startswith("redash-gateway; hit")
    assert spent(world) == (0.0, 0.0)
    await run(world)
    assert spent(world) == (590.0, 0.0)
    assert (await run(world)).status == 429
    assert (await run(world, client="second")).status == 200
    assert (await run(world, max_age=60)).cache.startswith("redash-gateway; hit")


async def test_what_the_last_run_took_is_reserved_while_one_runs(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 250.0
    await run(world)
    hold = world.sandbox.hold()
    running = await world.post("in_country", max_age=0, parameters=KEY)
    await until(lambda: spent(world) == (250.0, 250.0))
    assert (await run(world, parameters={"country": "FR"})).status == 429  # never run: as the last run of the query
    took.seconds = 10.0
    hold.release()
    await world.finish(running.job["id"])
    assert spent(world) == (260.0, 0.0)
    assert (await run(world, parameters={"country": "FR"})).status == 200


async def test_cancelled_and_failed_runs_cost_the_time_for_which_they_ran(bare: World) -> None:
    world = await budgeted(bare)
    hold = world.sandbox.hold()
    job = (await world.post("slow_seconds", max_age=0, parameters=SECOND)).job["id"]
    await world.sandbox.wait_executions(1)
    await until(lambda: world.runtime.executions.flights.running[0].upstream_status == 2)
    world.clock.turn(100)
    assert (await world.call("DELETE", f"/api/jobs/{job}")).status == 200
    await until(lambda: not world.runtime.executions.flights.running)
    found, reserved = spent(world)
    assert 100 <= found < 110
    assert reserved == 0
    failing = (await world.post("failing", max_age=0)).job["id"]
    await world.sandbox.wait_executions(2)
    running = world.runtime.executions.flights.running[0]
    await until(lambda: running.upstream_status == 2)
    world.clock.turn(50)
    hold.release()
    assert (await world.finish(failing))["status"] == 4
    assert found + 50 <= spent(world)[0] < found + 60


async def test_time_in_redash_s_queue_costs_nothing(bare: World) -> None:
    world = await budgeted(bare)
    hold = world.sandbox.hold_queue()
    job = (await world.post("failing", max_age=0)).job["id"]
    running = world.runtime.executions.flights.running[0]
    await until(lambda: bool(running.upstream_job))
    world.clock.turn(300)
    await running.polled.wait()
    hold.release()
    assert (await world.finish(job))["status"] == 4
    assert spent(world)[0] < 10


async def test_a_result_that_redash_has_already_costs_nothing(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 500.0
    await world.sandbox.execute_directly(world.named["in_country"], KEY)
    assert (await run(world, max_age=60)).status == 200
    assert spent(world) == (0.0, 0.0)


async def test_beyond_it_a_stored_result_is_used_within_its_window(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare, 'stale_over_budget = "10m"'), 400.0
    await run(world)
    world.clock.turn(100)
    stale = await run(world, max_age=60)
    assert stale.status == 200
    assert "hit" in stale.cache
    assert "detail=budget" in stale.cache
    assert int(stale.headers["Age"]) >= 100
    head = f"/api/queries/{world.named['in_country']}/results.json?p_country=DE&max_age=60"
    assert "detail=budget" in (await world.call("HEAD", head)).cache
    assert (await run(world)).status == 429  # max_age 0 never gets a stale result
    world.clock.turn(600)
    refused = await run(world, max_age=60)
    assert refused.status == 429
    assert (await world.call("HEAD", head)).status == 429
    assert world.started == 1


async def test_free_sql_is_not_stale_beyond_what_redash_has_shown_lately(bare: World, took: Took) -> None:
    """Only a run shows whether the credential may still read its data source: a revoked right must be noticed."""
    world, took.seconds = await budgeted(bare, 'stale_over_budget = "1h"\ncan = ["read", "execute", "adhoc"]'), 400.0
    sql = {"query": "select 1 as one", "data_source_id": 1, "parameters": {}}
    path, headers = "/api/query_results", {"Prefer": "wait=10"}
    assert (await world.call("POST", path, sql | {"max_age": 0}, headers=headers)).status == 200
    world.clock.turn(20)
    assert "detail=budget" in (await world.call("POST", path, sql | {"max_age": 5}, headers=headers)).cache
    world.clock.turn(60)
    assert (await world.call("POST", path, sql | {"max_age": 5}, headers=headers)).status == 429


async def test_in_an_outage_explain_knows_of_the_budget(behind: World, proxy: FaultProxy, took: Took) -> None:
    world = await budgeted(behind, 'stale_over_budget = "1h"\nstale_if_error = "0s"')
    took.seconds = 400.0
    await run(world)
    world.clock.turn(30)
    proxy.add("reset", "^/api/queries/[0-9]+/results")
    while not world.runtime.upstream.is_unavailable:
        await world.post("by_country", max_age=0, client="second")
    question = Question("dashboard", world.named["in_country"], 10, parameters=KEY)
    assert (await world.runtime.operations.explain(question)).decision == "stale"
    assert "detail=budget" in (await run(world, max_age=10)).cache


async def test_the_recipe_of_the_guide(bare: World, took: Took) -> None:
    """docs/access.md, Budgets: half an hour of runs in any hour, then results that are up to a day too old."""
    lines = re.findall(r"(?m)^(?:budget|stale_over_budget) = .*", (ROOT / "docs/access.md").read_text())
    assert len(lines) == 2
    await bare.start(dashboard="\n".join(lines))
    took.seconds = 1_700.0
    await run(bare)
    bare.clock.turn(600)
    assert (await run(bare)).status == 429
    assert "detail=budget" in (await run(bare, max_age=60)).cache
    bare.clock.turn(3_700)
    assert (await run(bare, max_age=60)).cache == "redash-gateway; fwd=stale; stored; detail=stale"


async def test_a_query_that_takes_longer_than_the_budget_is_refused_without_a_time(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 700.0
    assert (await run(world)).status == 200  # nobody knew
    world.clock.turn(4000)
    refused = await run(world)
    assert refused.status == 429
    assert "more than the budget of client 'dashboard' (10m/h) ever allows" in refused.json["detail"]
    assert "Retry-After" not in refused.headers


async def test_a_slow_run_of_other_values_is_named_as_such_and_there_is_a_way_out(bare: World, took: Took) -> None:
    """What other values took is the best guess. A run of the same values, by another client, knows better."""
    world, took.seconds = await budgeted(bare), 700.0
    await run(world, parameters={"country": "FR"})
    world.clock.turn(4000)
    refused = (await run(world)).json["detail"]
    assert "The last run of this query, perhaps with other values, took 700 s. That is more than" in refused
    assert "let another client of the same credential run the query with these values" in refused
    took.seconds = 1.0
    assert (await world.post("in_country", wait=10, max_age=0, parameters=KEY, client="second")).status == 200
    assert (await run(world)).status == 200


async def test_responses_of_runs_say_what_is_left(bare: World, took: Took) -> None:
    world = await budgeted(bare, 'rate = "50/s"', '["10m/h", "20m/d"]')
    took.seconds = 250.0
    reply = await run(world)
    assert reply.headers["RateLimit-Policy"] == (
        '"client";q=50;w=1, "budget-3600";q=600;w=3600;qu="execution-seconds", '
        '"budget-86400";q=1200;w=86400;qu="execution-seconds"'
    )
    names = [part.split(";")[0] for part in reply.headers["RateLimit"].split(", ")]
    assert names == ['"client"', '"budget-3600"', '"budget-86400"']
    await run(world)
    refused = await run(world)
    hour, day = refused.headers["RateLimit"].split(", ")[1:]
    assert hour.startswith('"budget-3600";r=100;t=36')
    assert day.startswith('"budget-86400";r=700;t=8')


async def test_metrics_status_and_console_show_it(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare, budget='["10m/h", "4h/d"]'), 450.0
    await run(world)
    await run(world)
    labels = {"client": "dashboard", "per": "h"}
    assert await world.metric("redash_gateway_budget_seconds", **labels) == 600
    assert await world.metric("redash_gateway_budget_spent_seconds", **labels) == 450
    assert await world.metric("redash_gateway_budget_reserved_seconds", **labels) == 0
    assert await world.metric("redash_gateway_rejected_total", reason="budget_spent") == 1
    async with world.session.get(f"{world.admin}/api/status") as response:
        clients = {row["client"]: row for row in (await response.json())["clients"]}
    assert (clients["dashboard"]["budget"], clients["dashboard"]["budget_left"]) == ("10m/h 4h/d", 150.0)
    assert (clients["second"]["budget"], clients["second"]["budget_left"]) == ("", None)
    async with world.session.get(f"{world.admin}/clients") as response:
        assert "10m/h 4h/d" in await response.text()


async def test_a_restart_changes_nothing(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare, budget='["10m/h", "4h/d"]'), 400.0
    await run(world)
    await world.restart()
    assert spent(world) == (400.0, 0.0)
    assert (await run(world)).status == 429
    world.clock.turn(3700)
    await world.restart()
    assert (await run(world)).status == 200


async def test_a_run_over_a_restart_is_reserved_and_then_settled_for_its_client(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 250.0
    await run(world)
    hold = world.sandbox.hold()
    job = (await world.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await world.sandbox.wait_executions(2)
    await until(lambda: bool(world.runtime.executions.flights.running[0].upstream_job))
    await world.restart()
    assert spent(world) == (250.0, 250.0)
    took.seconds = 100.0
    hold.release()
    await world.finish(job)
    await until(lambda: spent(world) == (350.0, 0.0))


async def test_a_run_that_the_next_process_does_not_follow_counts_as_expected(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 250.0
    await run(world)
    hold = world.sandbox.hold()
    await world.post("in_country", max_age=0, parameters=KEY)
    await world.sandbox.wait_executions(2)
    await until(lambda: bool(world.runtime.executions.flights.running[0].upstream_job))
    await world.stop()
    world.text = world.text.replace('credentials = ["analyst"]', 'credentials = ["admin"]')
    before, _, after = world.text.partition("[credentials.analyst]")
    world.text = before + "[credentials.admin]" + after.partition("[credentials.admin]")[2]
    await world.resume()
    hold.release()
    assert spent(world) == (500.0, 0.0)


async def test_a_reload_keeps_what_is_spent(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 400.0
    await run(world)
    world.reconfigure(world.text.replace('"10m/h"', '"20m/h"'))
    assert spent(world) == (400.0, 0.0)
    assert (await run(world)).status == 200
    world.reconfigure(world.text.replace('budget = "20m/h"', ""))
    assert (await run(world)).status == 200
    assert world.runtime.executions.budgets.states("dashboard") == []


async def test_a_reload_without_the_budget_keeps_what_is_spent_for_one_that_has_it_again(
    bare: World, took: Took
) -> None:
    world, took.seconds = await budgeted(bare), 400.0
    before = world.text
    await run(world)
    world.reconfigure(before.replace('budget = "10m/h"', ""))
    await run(world)
    world.reconfigure(before)
    assert spent(world) == (400.0, 0.0), "what is run without a budget costs nothing"


async def test_a_run_over_two_reloads_is_settled_once(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 100.0
    before = world.text
    await run(world)
    hold = world.sandbox.hold()
    job = (await world.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await world.sandbox.wait_executions(2)
    world.reconfigure(before.replace('budget = "10m/h"', ""))
    hold.release()
    await world.finish(job)
    world.reconfigure(before)
    assert spent(world) == (200.0, 0.0), "reserved when it began, so it counts; and nothing stays reserved"


async def test_a_budget_that_is_added_knows_what_was_spent_in_its_time(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare), 400.0
    await run(world)
    world.clock.turn(1800)
    world.reconfigure(world.text.replace('"10m/h"', '["10m/h", "20m/d"]'))
    assert [state.spent for state in world.runtime.executions.budgets.states("dashboard")] == [400.0, 400.0]
    world.clock.turn(1900)
    assert [state.spent for state in world.runtime.executions.budgets.states("dashboard")] == [0.0, 400.0]
    await world.restart()
    assert [state.spent for state in world.runtime.executions.budgets.states("dashboard")] == [0.0, 400.0]


@pytest.fixture
async def queue_of_one(bare: World) -> World:
    return await budgeted(bare, upstream="max_executions = 1", second='budget = "1h/h"')


async def test_who_has_a_budget_pays_if_the_first_caller_cannot(queue_of_one: World, took: Took) -> None:
    """Otherwise a client would be refused for another's budget, or a run would start without any."""
    world, took.seconds = queue_of_one, 600.0
    flights, hold = world.runtime.executions.flights, world.sandbox.hold()
    job = (await world.post("in_country", max_age=0, parameters=KEY)).job["id"]
    plan = flights.running[0].plan
    hold.release()
    await world.finish(job)
    execution = flights.begin(plan, Sender("dashboard", "first"))
    execution.join("second", plan.not_before(world.clock.monotonic()))  # before the run is looked at
    await execution.ended.wait()
    assert execution.status == 3
    assert (spent(world), spent(world, "second")) == ((600.0, 0.0), (600.0, 0.0))
    execution = flights.begin(plan, Sender("dashboard", "first"))
    await execution.ended.wait()
    assert isinstance(execution.failure, BudgetSpent)
    assert "dashboard" not in execution.failure.detail  # it may reach callers of other clients


async def test_a_follow_up_is_paid_by_who_needs_it(behind: World, proxy: FaultProxy, took: Took) -> None:
    world, took.seconds = await budgeted(behind, second='budget = "1h/h"'), 100.0
    hold = world.sandbox.hold()
    first = (await world.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await world.sandbox.wait_executions(1)
    proxy.add("reset", "^/api/jobs/")  # it ends in Redash, and the gateway does not see it
    hold.release()
    await world.sandbox.wait_finished(1)
    await world.sandbox.wait_idle()
    second = (await world.post("in_country", max_age=0, parameters=KEY, client="second")).job["id"]
    proxy.clear()
    await world.finish(first)
    await world.finish(second, client="second")
    assert world.started == 2
    assert (spent(world), spent(world, "second")) == ((100.0, 0.0), (100.0, 0.0))


async def test_stale_results_are_not_renewed_beyond_it(bare: World, took: Took) -> None:
    world, took.seconds = await budgeted(bare, 'stale_while_revalidate = "1h"'), 400.0
    await run(world)
    world.clock.turn(100)
    assert "detail=stale-while-revalidate" in (await run(world, max_age=60)).cache
    assert not world.runtime.executions.flights.running
    assert world.started == 1


async def test_a_run_that_never_left_costs_nothing(queue_of_one: World, took: Took) -> None:
    world, took.seconds = queue_of_one, 100.0
    await run(world)
    hold = world.sandbox.hold(world.named["slow_seconds"])
    blocking = await world.post("slow_seconds", max_age=0, parameters=SECOND, client="second")
    await world.sandbox.wait_executions(2)
    job = (await world.post("in_country", max_age=0, parameters=KEY)).job["id"]
    await until(lambda: spent(world) == (100.0, 100.0))
    await world.call("DELETE", f"/api/jobs/{job}")
    await until(lambda: spent(world) == (100.0, 0.0))
    hold.release()
    await world.finish(blocking.job["id"], client="second")


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_leaks_whatever_happens(bare: World, seed: int) -> None:
    """Random callers, ends, cancellations, failures, restarts: what is reserved is what runs, and no run starts beyond
    the budget."""
    world, chance = await budgeted(bare, 'stale_over_budget = "1m"', second='budget = "1h/d"'), Random(seed)
    hold, jobs = world.sandbox.hold(), list[tuple[str, str]]()
    for _ in range(30):
        roll, before = chance.random(), spent(world)
        if roll < 0.5:
            started, client = world.started, chance.choice(("dashboard", "second"))
            name = chance.choice(("in_country", "slow_seconds", "failing"))
            values = {"in_country": {"country": chance.choice(("DE", "FR"))}, "slow_seconds": SECOND}.get(name, {})
            reply = await world.post(name, client=client, parameters=values, max_age=chance.choice((0, 0, 5)))
            if reply.status == 200 and "job" in reply.json:
                jobs.append((client, reply.job["id"]))
            elif reply.status == 429:
                assert client == "second" or sum(before) > 0
            if world.started > started and spent(world)[1] > before[1]:
                assert sum(before) < 600
        elif roll < 0.65:
            world.clock.turn(chance.choice((1, 100, 900)))
        elif roll < 0.8 and jobs:
            client, job = jobs.pop(chance.randrange(len(jobs)))
            await world.call("DELETE", f"/api/jobs/{job}", client=client)
        elif roll < 0.95:
            hold.release()
            for client, job in jobs:
                await world.finish(job, client=client)
            jobs, hold = [], world.sandbox.hold()
        else:
            await world.restart()
        runs = {run.id for run in world.runtime.executions.flights.running}
        for client in ("dashboard", "second"):
            budgets: Any = world.runtime.executions.budgets
            assert budgets._clients[client].open.keys() <= runs
    hold.release()
    for client, job in jobs:
        await world.finish(job, client=client)
    await until(lambda: not world.runtime.executions.flights.running)
    assert spent(world)[1] == spent(world, "second")[1] == 0
