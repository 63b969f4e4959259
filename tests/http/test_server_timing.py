"""`Server-Timing`: where the time of a response went, for whoever opens the network panel of a browser."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from support.http import Reply
from support.inside import waiters
from support.waiting import until
from support.world import World

from gateway.http.head import server_timing
from gateway.http.response_cache import FAST_PATH_SECONDS
from gateway.outcome import Outcome

ORIGIN = "https://dash.example"


def timing(reply: Reply) -> dict[str, float]:
    """The milliseconds of each part."""
    field = reply.headers["Server-Timing"]
    assert re.fullmatch(r"\w+(;desc=\w+)?;dur=\d+\.\d\d(, \w+;dur=\d+\.\d\d)*", field), field
    return {name: float(dur) for name, dur in re.findall(r"(\w+)(?:;desc=\w+)?;dur=([\d.]+)", field)}


async def timed(world: World, name: str, **body: object) -> tuple[Reply, dict[str, float], float]:
    """A response, its parts, and the milliseconds that it took."""
    began = time.monotonic()
    reply = await world.post(name, **body)  # type: ignore[arg-type]
    return reply, timing(reply), (time.monotonic() - began) * 1000


async def test_a_miss_waits_for_redash_and_a_hit_does_not(world: World, by_fast_path: list[bytes]) -> None:
    await world.get("/api/session")  # the first request of all has more to do
    again = {"parameters": {"seconds": 0.2}, "max_age": 600}
    reply, parts, took = await timed(world, "slow_seconds", wait=20, **again)
    assert "cache;desc=miss" in reply.headers["Server-Timing"]
    assert 200 < parts["redash"] <= sum(parts.values()) <= took
    await timed(world, "slow_seconds", **again)  # reads the definition once more, as each first request after a run
    for _ in range(3):
        reply, parts, took = await timed(world, "slow_seconds", **again)
        assert reply.headers["Server-Timing"].startswith("cache;desc=hit;dur=")
        assert parts.get("redash", 0) == 0
    assert by_fast_path
    assert reply.headers["Server-Timing"] == f"cache;desc=hit;dur={FAST_PATH_SECONDS * 1000:.2f}"


async def test_a_run_that_has_no_slot_is_in_the_queue(bare: World) -> None:
    await bare.start(upstream="max_executions = 1\n")
    with bare.sandbox.hold():
        first = asyncio.create_task(bare.post("kb1", wait=20, max_age=0))
        await bare.sandbox.wait_executions(1)
        second = asyncio.create_task(timed(bare, "by_country", wait=20, max_age=0))
        joined = asyncio.create_task(timed(bare, "by_country", wait=20, max_age=600))
        await until(lambda: waiters(bare.runtime) == 3)
        await asyncio.sleep(0.1)
    assert timing(await first).get("queue", 0) < 50
    for reply, parts, took in (await second, await joined):
        assert 90 < parts["queue"] < took, reply.headers
        assert parts["redash"] > 0
        assert sum(parts.values()) <= took + 1


async def test_jobs_and_lists_have_it_and_other_responses_do_not(world: World) -> None:
    with world.sandbox.hold():
        job = (await world.post("by_country", max_age=0)).job["id"]
        waiting = asyncio.create_task(world.get(f"/api/jobs/{job}", prefer="wait=10"))
        await asyncio.sleep(0.05)
    assert timing(await waiting)["redash"] > 0
    assert "redash" in timing(await world.get("/api/dashboards"))
    for path in ("/ping", "/api/nothing"):
        assert "Server-Timing" not in (await world.get(path)).headers


async def test_waiting_for_the_check_of_another_request_is_waiting_for_redash(world: World) -> None:
    # Else the time would seem to be the gateway's own.
    path = f"/api/queries/{world.named['by_country']}"
    world.sandbox.faults.add("latency", route="/api/queries/<query_id>", seconds=0.1)
    replies = await asyncio.gather(*(world.get(f"{path}/results.json") for _ in range(2)))
    assert all(timing(reply)["redash"] > 90 for reply in replies), [reply.headers for reply in replies]


async def test_a_file_that_the_gateway_makes_is_rendered(world: World) -> None:
    await world.post("in_country", client="narrow", wait=20, max_age=600, parameters={"country": "DE"})
    path = f"/api/queries/{world.named['in_country']}/results.csv?p_country=DE&max_age=600"
    assert timing(await world.get(path, client="narrow"))["render"] > 0


@pytest.mark.parametrize(("origin", "allowed"), [(ORIGIN, ORIGIN), ("https://other.example", None), (None, None)])
async def test_pages_of_allowed_origins_may_see_it(bare: World, origin: str | None, allowed: str | None) -> None:
    # Browsers hide timings of other origins from scripts (Resource Timing, section 4.5).
    await bare.start(server=f'cors_origins = ["{ORIGIN}"]')
    for _ in range(3):
        path = f"/api/queries/{bare.named['by_country']}/results.json?max_age=600"
        reply = await bare.get(path, **({} if origin is None else {"origin": origin}))
        assert reply.headers.get("Timing-Allow-Origin") == allowed


def test_the_parts_are_never_more_than_the_whole() -> None:
    outcome = Outcome(request_id="x", cache="miss", duration=1.0, queue_seconds=0.25, upstream_seconds=0.5)
    outcome.add_wait(0.75, queued=0.5, calls=0.25)  # a run of its own: its calls are counted already
    assert server_timing(outcome) == "cache;desc=miss;dur=0.00, queue;dur=750.00, redash;dur=500.00"
