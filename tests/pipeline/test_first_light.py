"""The gateway's purpose, from a caller's side: collapsed requests, hits, restarts, parameters, query keys."""

from __future__ import annotations

import asyncio

from support.world import World


async def test_two_hundred_callers_of_one_run_cost_one_execution(world: World) -> None:
    query_id = world.named["slow_seconds"]
    async with world.sandbox.hold():
        asked = [world.post("slow_seconds", max_age=0, parameters={"seconds": 0}) for _ in range(200)]
        replies = await asyncio.gather(*asked)
    assert len({reply.job["id"] for reply in replies}) == 200
    ended = await asyncio.gather(*(world.finish(reply.job["id"]) for reply in replies))
    assert {job["status"] for job in ended} == {3}
    assert len({job["query_result_id"] for job in ended}) == 1
    assert world.sandbox.counters.posts[query_id] == 1
    assert world.sandbox.counters.started == 1


async def test_stored_results_serve_two_hundred_callers_also_after_a_restart(world: World) -> None:
    await world.rows("slow_seconds", max_age=0, parameters={"seconds": 0})
    posts = world.sandbox.counters.posts[world.named["slow_seconds"]]

    async def everybody() -> None:
        asked = [world.post("slow_seconds", max_age=3600, parameters={"seconds": 0}) for _ in range(200)]
        assert all("hit" in reply.cache for reply in await asyncio.gather(*asked))

    await everybody()
    await world.restart()
    await everybody()
    assert world.sandbox.counters.posts[world.named["slow_seconds"]] == posts


async def test_an_entry_older_than_max_age_causes_one_execution(world: World) -> None:
    await world.rows("slow_seconds", max_age=0, parameters={"seconds": 0})
    started = world.sandbox.counters.started
    world.clock.turn(61)
    asked = [world.post("slow_seconds", max_age=60, wait=10, parameters={"seconds": 0}) for _ in range(50)]
    replies = await asyncio.gather(*asked)
    assert all(reply.status == 200 and reply.rows for reply in replies)
    assert world.sandbox.counters.started == started + 1


async def test_parameters_in_another_key_order_are_a_hit_other_values_or_types_a_miss(world: World) -> None:
    first = {"window": {"start": "2024-01-01 00:00", "end": "2024-01-02 00:00"}}
    await world.rows("between", max_age=3600, parameters=first)
    turned = {"window": {"end": "2024-01-02 00:00", "start": "2024-01-01 00:00"}}
    assert "hit" in (await world.post("between", max_age=3600, parameters=turned)).cache
    other = {"window": {"end": "2024-01-03 00:00", "start": "2024-01-01 00:00"}}
    assert "hit" not in (await world.post("between", max_age=3600, parameters=other)).cache
    await world.rows("above", max_age=3600, parameters={"min_amount": 450})
    assert "hit" in (await world.post("above", max_age=3600, parameters={"min_amount": 450})).cache
    assert "hit" not in (await world.post("above", max_age=3600, parameters={"min_amount": "450"})).cache
    assert "hit" not in (await world.post("above", max_age=3600, parameters={"min_amount": 450.0})).cache


async def test_texts_that_differ_in_white_space_never_share_rows(world: World) -> None:
    # Redash's cache and its joining ignore white space, also inside literals (CONTRACT 7).
    for _ in range(2):
        spaced, together = await asyncio.gather(
            world.rows("city_enum", max_age=3600, parameters={"city": "New York"}),
            world.rows("city_enum", max_age=3600, parameters={"city": "NewYork"}),
        )
        assert [row["city"] for row in spaced] == ["New York"]
        assert [row["city"] for row in together] == ["NewYork"]
        world.clock.turn(4000)


async def test_a_query_key_gets_results_for_values_other_than_the_defaults(world: World) -> None:
    # The trap of CONTRACT 8: by id, Redash shows a query key only a result that was run with the defaults.
    rows = await world.rows("in_country", client="narrow", max_age=0, parameters={"country": "FR"})
    assert rows
    reply = await world.post("in_country", client="narrow", max_age=3600, parameters={"country": "FR"})
    assert "hit" in reply.cache
    assert set(reply.json["query_result"]) == {"data", "retrieved_at"}


async def test_a_restart_follows_running_executions(world: World) -> None:
    hold = world.sandbox.hold()
    reply = await world.post("slow_seconds", max_age=0, parameters={"seconds": 0})
    await world.restart()
    hold.release()
    job = await world.finish(reply.job["id"])
    assert job["status"] == 3
    assert world.sandbox.counters.started == 1


async def test_metrics_agree_with_the_sandbox(world: World) -> None:
    for max_age in (0, 3600, 3600):
        await world.rows("by_country", max_age=max_age)
    await world.get(f"/api/queries/{world.named['by_country']}")
    await world.get("/api/queries")
    sent = await world.metric("redash_gateway_upstream_requests_total")
    assert sent == world.sandbox.counters.requests
    assert await world.metric("redash_gateway_executions_total") == world.sandbox.counters.started
    hits = await world.metric("redash_gateway_requests_total", cache="hit", route="/api/queries/{query_id}/results")
    assert hits == 2
