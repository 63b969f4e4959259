"""JSON nested a thousand deep, from callers and from Redash: refused in words, never an internal error."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from support.world import World

from gateway.errors import UpstreamUnusable
from gateway.redash.json_text import DEEPEST, load_json
from gateway.redash.objects import parse_dashboard, parse_definition, parse_named, parse_pause
from gateway.redash.organisation import parse_organisation
from gateway.redash.redaction import without_keys
from gateway.redash.refusals import parse_error
from gateway.redash.responses import parse_job

DEPTHS = [150, 990, 5_000, 100_000]
TOO_DEEP = 100_000
"""For every Python: parsers written in C stop after 1,000 levels on 3.11, and after about 10,000 on later ones."""


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "name", ["in_country", "multi", "above", "on_day", "revenue_by_month", "dropdown", "pattern", "undeclared"]
)
async def test_a_deep_parameter_is_400(world: World, name: str, depth: int) -> None:
    body = f'{{"max_age": 0, "parameters": {{"x": {nested(depth)}}}}}'.encode()
    path = f"/api/queries/{world.named[name]}/results"
    reply = await world.call("POST", path, body, client="sql")
    assert reply.status == 400, reply.body
    assert world.sandbox.counters.started == 0


@pytest.mark.parametrize("form", ["[", '{"a":'])
async def test_a_deep_argument_is_400(world: World, form: str) -> None:
    for name, argument in [("multi", "p_statuses"), ("revenue_by_month", "p_period"), ("in_country", "p_country")]:
        for depth in (150, 1_500 if form == "[" else 600):
            reply = await world.get(f"/api/queries/{world.named[name]}/results.json?{argument}={form * depth}")
            assert reply.status == 400, (name, depth, reply.body)
    assert world.sandbox.counters.started == 0


async def test_deep_free_sql_and_writes_are_400(world: World) -> None:
    for path, client in [("/api/query_results", "sql"), (f"/api/queries/{world.named['by_country']}", "writer")]:
        reply = await world.call("POST", path, f'{{"query": {nested(2_000)}}}'.encode(), client=client)
        assert reply.status == 400, reply.body


@pytest.mark.parametrize("by", ["read", "run"])
async def test_a_deep_result_is_502(world: World, by: str) -> None:
    query = world.named["by_country"]
    result = world.sandbox.add_result(query, [("c", None)], [])
    result._data = f'{{"columns": [{{"name": "c"}}], "rows": [{{"c": {nested(TOO_DEEP)}}}]}}'
    if by == "run":
        reply = await world.post(query, max_age=3600)
    else:
        reply = await world.get(f"/api/queries/{query}/results/{result.id}.json")
    assert reply.status == 502, reply.body


@pytest.mark.parametrize("client", ["dashboard", "narrow"])
async def test_a_run_with_a_deep_result_fails_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    # It was taken for an outage: fetched once a second for a minute, while the run held its slot.
    deep = f'{{"columns": [{{"name": "c"}}], "rows": [{{"c": {nested(TOO_DEEP)}}}]}}'
    monkeypatch.setattr("gateway.sandbox.results.Result._rendered", lambda *_: deep)
    reply = await world.post("in_country", max_age=0, parameters={"country": "DE"}, client=client)
    async with asyncio.timeout(10.0):
        job = await world.finish(reply.job["id"], client=client)
    assert job["status"] == 4
    assert world.sandbox.counters.started == 1
    if client == "dashboard":
        assert "nested too deeply" in job["error"]
        assert world.sandbox.counters.by_route["GET /api/query_results/<query_result_id>.<filetype>"] == 1


async def test_a_deep_result_that_is_large_is_502_where_it_has_to_be_parsed(world: World) -> None:
    # Of a large one only its ends are parsed on arrival; a query key's CSV is made of all of it.
    query = world.named["in_country"]
    result = world.sandbox.add_result(query, [("c", None)], [], parameters={"country": "FR"})
    filler = "x" * 300_000
    result._data = f'{{"columns": [{{"name": "c"}}], "rows": [{{"c": {nested(TOO_DEEP)}, "d": "{filler}"}}]}}'
    reply = await world.get(f"/api/queries/{query}/results.csv?p_country=FR&max_age=3600", client="narrow")
    assert reply.status == 502, reply.body


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_no_response_of_redash_is_walked_too_deeply(depth: int) -> None:
    data = f'{{"id": 1, "message": {nested(depth)}, "options": {{"parameters": {nested(depth)}}}}}'.encode()
    for parse in (
        lambda: parse_definition(data, 0.0),
        lambda: parse_dashboard(data),
        lambda: parse_pause(data, 1),
    ):
        with pytest.raises(UpstreamUnusable) if depth == TOO_DEEP else suppress(UpstreamUnusable):
            parse()
    assert parse_organisation(data) is None
    assert parse_job(data) is None
    assert parse_error(data) == ""
    assert parse_named(data).id in (None, 1)
    try:
        without_keys(data)
    except UpstreamUnusable:
        assert depth > DEEPEST


def test_the_depth_is_that_of_the_value_not_of_the_text() -> None:
    assert load_json(nested(DEEPEST)) is not None
    with pytest.raises(ValueError, match="nested"):
        load_json(nested(DEEPEST + 1))
    assert load_json('"' + "[" * 1_000 + '"') == "[" * 1_000
    assert load_json("[" + ",".join(["[]"] * 1_000) + "]") == [[]] * 1_000
