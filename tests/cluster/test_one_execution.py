"""Callers of several gateways share one execution, and it outlives the gateway that began it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

import pytest
from support.cluster import Cluster, Gateway
from support.http import Reply
from support.waiting import until

from gateway.sandbox import Hold, Sandbox, parameter

LEASE_SECONDS = 6.0
SLACK_SECONDS = 5.0
"""What a busy machine adds."""

TRIES = 4


class Held:
    """A query of its own for each try, whose runs do not end before `release`."""

    def __init__(self, cluster: Cluster, sandbox: Sandbox) -> None:
        self.gateways = cluster.gateways
        self.sandbox = sandbox
        self.query = sandbox.add_query("held", "select {{ n }} as n", parameters=[parameter("n", "number", 1)])
        self._hold: Hold = sandbox.hold(self.query)

    async def post(self, gateway: Gateway, **more: Any) -> Reply:
        return await gateway.post(self.query, max_age=0, parameters={"n": 1}, **more)

    @property
    def posts(self) -> int:
        """How often Redash was asked to execute."""
        return self.sandbox.counters.posts[self.query]

    def release(self) -> None:
        self._hold.release()


def running(cluster: Cluster) -> list[Gateway]:
    return [gateway for gateway in cluster.gateways if gateway.process.child.returncode is None]


async def losses(cluster: Cluster) -> float:
    """How often a gateway that runs has lost Redis."""
    return sum([await gateway.metric("redash_gateway_redis_losses_total") for gateway in running(cluster)])


async def while_redis_is_there(cluster: Cluster, test: Callable[[], Awaitable[None]]) -> None:
    """Run a test that holds while Redis answers in time, again if it did not: other tests make the machine slow."""
    for tries_left in reversed(range(TRIES)):
        before = await losses(cluster)
        try:
            await test()
            return
        except (AssertionError, KeyError):  # an error in place of a job
            if not tries_left or await losses(cluster) <= before:
                raise
        await asyncio.gather(*(gateway.joined() for gateway in running(cluster)))


async def test_six_hundred_simultaneous_requests_cause_one_execution(cluster: Cluster, sandbox: Sandbox) -> None:
    async def stampede() -> None:
        held = Held(cluster, sandbox)
        spread = cycle(cluster.gateways)
        replies = await asyncio.gather(*(held.post(next(spread)) for _ in range(600)))
        held.release()
        jobs = {reply.job["id"] for reply in replies}
        assert len(jobs) == 600
        ends = await asyncio.gather(*(next(spread).finish(job) for job in jobs))
        assert held.posts == 1
        assert {end["status"] for end in ends} == {3}
        results = {end["query_result_id"] for end in ends}
        assert len(results) == 1
        for job in jobs:
            polls = await cluster.each(f"/api/jobs/{job}")
            assert {(poll.status, poll.job.get("query_result_id")) for poll in polls} == {(200, *results)}
        for gateway in cluster.gateways:
            hit = await gateway.post(held.query, max_age=600, parameters={"n": 1})
            assert "; hit" in hit.cache
            assert hit.json["query_result"]["id"] in results
        assert held.posts == 1

    await while_redis_is_there(cluster, stampede)


async def test_waiting_works_on_whichever_gateway_is_asked(cluster: Cluster, sandbox: Sandbox) -> None:
    async def wait() -> None:
        held = Held(cluster, sandbox)
        leader, *others = cluster.gateways
        job = (await held.post(leader)).job["id"]
        form = f"/api/queries/{held.query}/results.json?p_n=1&max_age=0"
        waiting = [asyncio.create_task(held.post(other, wait=15)) for other in others]
        waiting += [asyncio.create_task(other.get(f"/api/jobs/{job}", prefer="wait=15")) for other in others]
        waiting += [asyncio.create_task(other.get(form)) for other in others]
        await until(lambda: held.posts == 1)
        await asyncio.sleep(0.3)
        held.release()
        replies = await asyncio.gather(*waiting)
        assert [len(reply.rows) for reply in replies[:2] + replies[4:]] == [1] * 4
        assert [reply.job["status"] for reply in replies[2:4]] == [3, 3]
        assert held.posts == 1

    await while_redis_is_there(cluster, wait)


async def test_a_run_that_ended_before_the_request_serves_no_caller_of_max_age_zero(
    cluster: Cluster, sandbox: Sandbox
) -> None:
    """One after the other, each through another gateway: no moment of asking is lost on the way."""
    query = sandbox.add_query("counted", "select run_number() as run")
    seen = []
    for gateway, _ in zip(cycle(cluster.gateways), range(9), strict=False):
        seen += await gateway.rows(query, max_age=0)
    assert sandbox.counters.posts[query] == 9
    assert len({row["run"] for row in seen}) == 9


async def test_a_cancelled_run_ends_when_its_last_caller_on_any_gateway_leaves(
    cluster: Cluster, sandbox: Sandbox
) -> None:
    async def cancel() -> None:
        held = Held(cluster, sandbox)
        one, two, three = cluster.gateways
        first, second = [(await held.post(gateway)).job["id"] for gateway in (one, two)]
        assert (await three.call("DELETE", f"/api/jobs/{first}")).status == 200
        assert [reply.job["status"] for reply in await cluster.each(f"/api/jobs/{first}")] == [4, 4, 4]
        assert (await one.get(f"/api/jobs/{second}")).job["status"] in (1, 2)
        assert (await three.call("DELETE", f"/api/jobs/{second}")).status == 200
        await until(lambda: sandbox.jobs.idle)
        held.release()
        assert held.posts == 1

    await while_redis_is_there(cluster, cancel)


async def followed(
    cluster: Cluster, sandbox: Sandbox, stop: Callable[[Gateway], Awaitable[None]], *, later: float = 0.0
) -> Held:
    """The leader is stopped in mid-execution; its job and those of the others come to a good end on the others.

    `later`: how many seconds after that the run ends in Redash.
    """
    held = Held(cluster, sandbox)
    leader, *others = cluster.gateways
    jobs = [(await held.post(gateway)).job["id"] for gateway in cluster.gateways]
    await until(lambda: held.posts == 1)
    waiting = [asyncio.create_task(held.post(other, wait=20)) for other in others]
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await stop(leader)
    await asyncio.sleep(later)
    held.release()
    assert [len((await task).rows) for task in waiting] == [1, 1]
    assert time.monotonic() - began < max(LEASE_SECONDS, later) + SLACK_SECONDS
    for other in others:
        ends = [await other.finish(job) for job in jobs]
        assert {(end["status"], end["query_result_id"]) for end in ends} == {(3, ends[0]["query_result_id"])}
    assert held.posts == 1
    return held


@pytest.mark.timeout(180)
@pytest.mark.parametrize("later", [0.0, LEASE_SECONDS + 1.0], ids=["before it is missed", "after that"])
async def test_another_gateway_follows_the_job_of_a_leader_that_was_killed(
    cluster: Cluster, sandbox: Sandbox, later: float
) -> None:
    async def kill() -> None:
        if cluster.gateways[0].process.child.returncode is not None:
            await cluster.gateways[0].start()
        await followed(cluster, sandbox, Gateway.kill, later=later)

    await while_redis_is_there(cluster, kill)


async def test_another_gateway_follows_the_job_of_a_leader_that_was_stopped(cluster: Cluster, sandbox: Sandbox) -> None:
    async def stop() -> None:
        if cluster.gateways[0].process.child.returncode is not None:
            await cluster.gateways[0].start()
        await followed(cluster, sandbox, Gateway.stop)

    await while_redis_is_there(cluster, stop)


async def test_a_leader_that_was_paused_changes_nothing_when_it_wakes(cluster: Cluster, sandbox: Sandbox) -> None:
    async def pause() -> None:
        leader, *others = cluster.gateways

        async def stop(gateway: Gateway) -> None:
            gateway.pause()

        try:
            held = await followed(cluster, sandbox, stop)
        finally:
            leader.resume()
        newer = [await others[0].rows(held.query, max_age=0, parameters={"n": 1})]
        shown = [await gateway.post(held.query, max_age=600, parameters={"n": 1}) for gateway in cluster.gateways]
        assert len({reply.json["query_result"]["id"] for reply in shown}) == 1, newer
        assert held.posts == 2

    await while_redis_is_there(cluster, pause)


async def test_an_edit_in_redash_that_only_the_leader_notices_fails_no_caller(
    cluster: Cluster, sandbox: Sandbox
) -> None:
    """The leader sees by the rows that the text is another one, and looks. The others know the old text still, and a
    purge lets them fetch the result themselves.
    """

    async def edit() -> None:
        held = Held(cluster, sandbox)
        held.release()
        for gateway in cluster.gateways:
            await gateway.rows(held.query, parameters={"n": 1})
        before = held.posts
        sandbox.edit_query(held.query, query="select {{ n }} as n, 2 as more")
        with sandbox.hold(held.query):
            waiting = [asyncio.create_task(held.post(gateway, wait=15)) for gateway in cluster.gateways]
            await until(lambda: held.posts == before + 1)
            await asyncio.sleep(0.3)
            assert (await cluster.gateways[0].tell("purge", query=held.query)).status == 200
            await asyncio.sleep(0.3)
        replies = await asyncio.gather(*waiting)
        assert [(reply.status, reply.rows) for reply in replies] == [(200, [{"n": 1, "more": 2}])] * 3

    await while_redis_is_there(cluster, edit)
