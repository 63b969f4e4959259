"""What one caller can make the gateway hold or do is bounded, and what is beyond the bound never reaches Redash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from support.calls import TOKENS
from support.http import Reply
from support.waiting import until
from support.world import World

from gateway.upstream import urls


async def test_sql_that_would_grow_without_bound_is_refused_before_anything_is_sent(world: World) -> None:
    # One value may be shown many times: 2,000 tags and 200 KB are 400 MB of SQL.
    body = {"data_source_id": 1, "query": "select '" + "{{a}}" * 1_900 + "'", "parameters": {"a": "x" * 200_000}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert "longer than" in reply.json["message"]
    assert world.sandbox.counters.posts.total() == 0


async def test_a_template_of_too_many_tags_is_refused(world: World) -> None:
    body = {"data_source_id": 1, "query": "{{a}}" * 2_001, "parameters": {"a": ""}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert world.sandbox.counters.posts.total() == 0


async def test_more_values_than_can_be_searched_for_are_refused(world: World) -> None:
    text = "select '{{#a}}{{{.}}}{{/a}}' " + "-- long\n" * 10_000
    body = {"data_source_id": 1, "query": text, "parameters": {"a": [f"v{n}" for n in range(20_000)]}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert "too many values" in reply.json["message"]
    assert world.sandbox.counters.posts.total() == 0


async def _begin(world: World, body: bytes, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a POST whose body is announced to be `length` bytes long, and as much of it as is given."""
    parts = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    path = f"/api/queries/{world.named['in_country']}/results"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Key {TOKENS['dashboard']}\r\n"
    writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
    return reader, writer


async def test_bodies_under_way_have_a_bound_together(bare: World) -> None:
    # 300 connections with 1 MB each took 379 MB; each body alone is within `max_request_body`.
    await bare.start(cache='memory = "2MB"')
    held = [await _begin(bare, b"{", 900_000) for _ in range(2)]
    await until(lambda: bare.runtime.api.api._bodies.taken == 1_800_000)
    reader, writer = await _begin(bare, b"", 900_000)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head
    assert (await bare.get("/api/queries")).status == 200, "what has no body is not held up"
    for _, other in [*held, (reader, writer)]:
        other.close()
    await until(lambda: bare.runtime.api.api._bodies.taken == 0)
    assert (await bare.post("in_country", parameters={"country": "DE"})).status == 200


async def test_a_body_of_unknown_length_counts_as_it_comes(bare: World) -> None:
    await bare.start(cache='memory = "1MB"')
    _, held = await _begin(bare, b"{", 900_000)
    await until(lambda: bare.runtime.api.api._bodies.taken == 900_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 60_000

    url = f"{bare.url}/api/queries/{bare.named['in_country']}/results"
    headers = {"Authorization": f"Key {TOKENS['dashboard']}"}
    async with bare.session.post(url, data=pieces(), headers=headers) as response:
        assert response.status == 503
    held.close()


async def test_a_request_that_is_alone_may_be_as_large_as_one_may_be(bare: World) -> None:
    await bare.start(cache='memory = "1MB"')
    body = b'{"parameters": {"country": "DE"}, "more": [' + b"[]," * 300_000 + b"0]}"
    reply = await bare.call("POST", f"/api/queries/{bare.named['in_country']}/results", body)
    assert reply.status == 200


async def run_sql(world: World, text: str) -> Reply:
    body = {"data_source_id": 1, "query": text, "max_age": 0}
    return await world.call("POST", "/api/query_results", json.dumps(body).encode(), client="sql")


async def test_what_runs_in_progress_keep_has_a_bound_together(bare: World) -> None:
    # A run outlives the request that began it.
    await bare.start(cache='memory = "1MB"', upstream="max_executions = 1")
    async with bare.sandbox.hold():
        replies = [await run_sql(bare, f"select {n} -- {'x' * 200_000}") for n in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 503, 503]
    assert replies[-1].headers["Retry-After"] == "5"


async def test_the_ledger_keeps_no_bodies_of_runs_that_have_ended(world: World) -> None:
    # 150 POSTs with 990 KB each took 154 MB, outside of `cache.disk`, for 12 hours.
    for number in range(3):
        reply = await run_sql(world, f"select {number} -- {'x' * 900_000}")
        assert (await world.finish(reply.job["id"], client="sql"))["status"] == 3
    executions = world.runtime.executions.flights._ledger._recent.executions()
    assert len(executions) == 3
    assert all(record.body == b"" for record in executions)


async def test_runs_count_with_more_than_their_parameters(bare: World) -> None:
    # Each has a task, events and records: 50,000 small ones, which wait for a slot, took half a gigabyte.
    await bare.start(cache='memory = "1MB"', upstream="max_executions = 1")
    with bare.sandbox.hold():
        statuses = [(await run_sql(bare, f"select {number}")).status for number in range(120)]
        assert statuses.count(200) <= 1_000_000 // 10_000 + 1
        assert statuses[-1] == 503
        running = bare.runtime.executions.flights.running
        for execution in running:
            execution.task.cancel()  # type: ignore[union-attr]
    await until(lambda: not bare.runtime.executions.flights.running)
    assert bare.runtime.executions.flights.current.weight == 0
    assert (await run_sql(bare, "select 1")).status == 200


async def test_error_texts_are_kept_within_bounds(world: World) -> None:
    # Databases repeat the SQL in their errors; each job id kept one for hours, 10,000 of a megabyte each.
    reply = await run_sql(world, "select '" + "x" * 900_000)
    job = await world.finish(reply.job["id"], client="sql")
    assert job["status"] == 4
    assert job["error"]
    assert len(job["error"]) < 11_000
    jobs, failures = world.runtime.executions.jobs._recent, world.runtime.executions.flights.failures._failed
    assert len(job["error"]) < jobs.currsize < 20_000
    assert len(job["error"]) < failures.currsize


async def test_failures_count_with_the_definition_that_they_were_run_by(world: World) -> None:
    # Each remembered failure holds its definition: after as many edits as failures, these were 4 MB each.
    query_id = world.sandbox.add_query("Failing", "select * from none")
    sizes = []
    for number in range(2):
        world.sandbox.edit_query(query_id, query=f"select * from none -- {'x' * 100_000 * number}")
        world.clock.turn(60)
        reply = await world.post(query_id, max_age=0)
        assert (await world.finish(reply.job["id"]))["status"] == 4
        sizes.append(world.runtime.executions.flights.failures._failed.currsize)
    assert sizes[1] - sizes[0] >= 100_000


async def test_long_urls_are_not_kept(world: World) -> None:
    # The last thousand were, with up to 16 KB each.
    before = urls._kept.cache_info().currsize
    for number in range(20):
        await world.get(f"/api/queries?q={number}{'x' * 1_000}")
    assert urls._kept.cache_info().currsize <= before + 5
