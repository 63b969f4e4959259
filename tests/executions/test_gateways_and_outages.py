"""Stored results stand in while Redash does not answer, whichever gateway leads the run, and whichever is asked."""

from __future__ import annotations

from unittest import mock

import pytest
from support.fault_proxy import FaultProxy
from support.gateways import begun, ended
from support.inside import retrying_every
from support.waiting import until
from support.world import World

POLLS = "^/api/jobs/"


@pytest.fixture
async def stale(gateways: list[World]) -> int:
    """The id of a stored result that callers may have in an outage."""
    for world in gateways:
        world.reconfigure(world.text.replace("[cache]", '[cache]\nstale_if_error = "1h"'))
    result = await ended(gateways[0], (await gateways[0].post("now", max_age=0)).job["id"])
    gateways[0].clock.turn(120)
    return result


async def joined(gateways: list[World]) -> list[str]:
    """The jobs that two gateways have given out for one run; the first one leads it."""
    first = await begun(gateways[0], "now", max_age=60, parameters={})
    return [first, (await gateways[1].post("now", max_age=60)).job["id"]]


async def test_while_polls_fail_jobs_of_all_gateways_end_with_the_stored_result(
    gateways: list[World], proxy: FaultProxy, stale: int
) -> None:
    """The leader knows it first; what it has said of a job, the others say, too, also when Redash is back."""
    async with gateways[0].sandbox.hold():
        jobs = await joined(gateways)
        (execution,) = gateways[0].runtime.executions.flights.running
        proxy.add("reset", POLLS)
        await until(lambda: execution.is_unanswered)
        for world in gateways:
            assert {await ended(world, job) for job in jobs} == {stale}
        proxy.clear()
    await until(lambda: not gateways[0].runtime.executions.flights.running)
    for world in gateways:
        assert {await ended(world, job) for job in jobs} == {stale}


async def test_when_a_run_fails_in_an_outage_its_jobs_end_with_the_stored_result_on_all_gateways(
    gateways: list[World], proxy: FaultProxy, stale: int
) -> None:
    """The one that is asked has neither led the run nor given the job out."""
    async with gateways[0].sandbox.hold():
        jobs = await joined(gateways)
        with mock.patch("gateway.executions.following.PATIENCE_SECONDS", 0.1), retrying_every(0.05):
            proxy.add("reset", POLLS)
            await until(lambda: not gateways[0].runtime.executions.flights.running)
    proxy.clear()
    for world in reversed(gateways):
        assert {await ended(world, job) for job in jobs} == {stale}
    reply = await gateways[2].get(f"/api/queries/{gateways[2].named['now']}/results.json?max_age=60&run={jobs[1]}")
    assert (reply.status, reply.json["query_result"]["id"]) == (200, stale)
    assert "detail=stale-if-error" in reply.cache
