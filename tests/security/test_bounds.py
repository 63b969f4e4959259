"""What one caller can make the gateway hold or do is bounded, and what is beyond the bound never reaches Redash."""

from __future__ import annotations

from support.world import World


async def test_sql_that_would_grow_without_bound_is_refused_before_anything_is_sent(world: World) -> None:
    # One value may be shown many times: 10,000 tags and 200 KB are 2 GB of SQL.
    body = {"data_source_id": 1, "query": "select '" + "{{a}}" * 9_000 + "'", "parameters": {"a": "x" * 200_000}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert "longer than" in reply.json["message"]
    assert world.sandbox.counters.by_route == {}


async def test_a_template_of_too_many_tags_is_refused(world: World) -> None:
    body = {"data_source_id": 1, "query": "{{a}}" * 30_000, "parameters": {"a": ""}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert world.sandbox.counters.by_route == {}


async def test_more_values_than_can_be_searched_for_are_refused(world: World) -> None:
    text = "select '{{#a}}{{{.}}}{{/a}}' " + "-- long\n" * 10_000
    body = {"data_source_id": 1, "query": text, "parameters": {"a": [f"v{n}" for n in range(20_000)]}}
    reply = await world.call("POST", "/api/query_results", body, client="sql")
    assert reply.status == 400
    assert "too many values" in reply.json["message"]
    assert world.sandbox.counters.by_route == {}
