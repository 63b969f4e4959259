"""Callers' values never become SQL that nobody permitted: not through typed parameters, not by an edit in Redash."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from support.http import Reply
from support.waiting import until
from support.world import World

from gateway.sandbox.sample_objects import parameter

pytestmark = pytest.mark.standing_clock

POST_ROUTE = "/api/queries/<query_id>/results"
DEFINITION_ROUTE = "/api/queries/<query_id>"
INJECTION = "1 as x union select 'secret'"


def posts(world: World) -> list[Any]:
    """The parameters of the POSTs that reached Redash, oldest first."""
    sent = [json.loads(r.body) for r in world.sandbox.log if r.method == "POST" and r.route == POST_ROUTE]
    return [body["parameters"] for body in sent]


def definitions_asked(world: World) -> int:
    return world.sandbox.counters.by_route[f"GET {DEFINITION_ROUTE}"]


async def known(world: World, text: str, *parameters: dict[str, Any]) -> int:
    """A query whose definition the gateway knows, with nothing of a run since."""
    query = world.sandbox.add_query("edited", text, parameters=list(parameters))
    assert (await world.get(f"/api/queries/{query}/results.json")).status == 404  # never run; now it is known
    return query


def error_of(reply: Reply) -> str:
    return str(reply.json["message"])


# -- an edit in Redash, within definition_check


async def test_a_name_that_the_known_definition_lacks_makes_it_be_requested_again(world: World) -> None:
    # Redash ignores unknown names where it has no definitions, so the old definition would let this pass.
    query = await known(world, "select 1 as x")
    world.sandbox.edit_query(query, query="select {{ x }}")
    reply = await world.post(query, max_age=0, parameters={"x": INJECTION})
    assert reply.status == 403, reply.body
    assert posts(world) == []


@pytest.mark.parametrize("now", ["text", "undeclared"])
async def test_a_value_of_another_type_makes_the_definition_be_requested_again(world: World, now: str) -> None:
    query = await known(world, "select {{ x }}", parameter("x", "number", 1))
    world.sandbox.edit_query(query, options={"parameters": [parameter("x", "text", "")] if now == "text" else []})
    reply = await world.post(query, max_age=0, parameters={"x": INJECTION})
    assert reply.status == 403, reply.body
    assert posts(world) == []


async def test_the_get_form_requests_the_definition_again_as_well(world: World) -> None:
    query = await known(world, "select {{ x }} as x", parameter("x", "number", 1))
    world.sandbox.edit_query(query, options={"parameters": [parameter("x", "enum", "1", enumOptions="1\n'a'")]})
    reply = await world.get(f"/api/queries/{query}/results.json?max_age=0&p_x={quote(chr(39))}a{quote(chr(39))}")
    assert reply.status == 200, reply.body
    assert reply.rows == [{"x": "a"}]


async def test_a_new_parameter_works_at_once(world: World) -> None:
    query = await known(world, "select 1 as x")
    world.sandbox.edit_query(query, query="select {{ n }} as x", options={"parameters": [parameter("n", "number", 1)]})
    assert await world.rows(query, max_age=0, parameters={"n": 5}) == [{"x": 5}]


async def test_names_that_redash_ignores_are_not_sent(world: World) -> None:
    # Between the check and the POST an edit could give them a meaning.
    query = await known(world, "select 1 as x")
    assert await world.rows(query, max_age=0, parameters={"x": INJECTION}) == [{"x": 1}]
    assert posts(world) == [{}]


@pytest.mark.parametrize("kind", ["text-pattern", "query"])
async def test_values_that_only_redash_can_judge_leave_on_a_new_definition(world: World, kind: str) -> None:
    more: dict[str, Any] = {"regex": "[A-Z]+"} if kind == "text-pattern" else {"queryId": world.named["countries"]}
    query = await known(world, "select {{ x }} as x", parameter("x", kind, "DE", **more))
    world.sandbox.edit_query(query, options={"parameters": [parameter("x", "text", "DE")]})
    world.clock.turn(2)
    reply = await world.post(query, wait=5, max_age=0, parameters={"x": INJECTION})
    assert reply.status == 403, reply.body
    assert posts(world) == []


async def test_what_executes_waits_for_a_definition_check(world: World) -> None:
    # DESIGN: up to twice `definition_check` the check runs in the background, for what is stored only.
    query = await known(world, "select '{{ x }}' as x", parameter("x", "enum", "DE", enumOptions="DE\nFR"))
    world.sandbox.edit_query(query, options={"parameters": [parameter("x", "text", "DE")]})
    world.clock.turn(61)
    fault = world.sandbox.faults.add("hang", route=DEFINITION_ROUTE, method="GET", count=1)
    running = asyncio.create_task(world.post(query, wait=5, max_age=0, parameters={"x": "DE"}))
    await until(lambda: fault.hits == 1)
    assert posts(world) == []
    fault.release()
    assert (await running).status == 403
    assert posts(world) == []


async def test_nothing_executes_where_the_definition_check_fails(world: World) -> None:
    query = await known(world, "select 1 as x")
    assert await world.rows(query, max_age=0) == [{"x": 1}]
    reply = await world.post(query, max_age=3600)
    assert "hit" in reply.cache
    world.clock.turn(121)
    before = len(posts(world))
    world.sandbox.faults.add("status", route=DEFINITION_ROUTE, method="GET", status=503)
    assert (await world.post(query, max_age=3600)).rows == [{"x": 1}]  # what is stored is good for `stale_if_error`
    assert (await world.post(query, wait=5, max_age=0)).status == 502
    assert len(posts(world)) == before


async def test_the_second_post_of_a_query_key_leaves_on_a_definition_in_force(bare: World) -> None:
    # A query key reads the result of its job by another POST (CONTRACT 8): that one may start a run as well.
    query = bare.sandbox.add_query("long", "select 1 as x")
    await bare.start(f'[credentials.own]\nkind = "query"\nquery = {query}\nkey_env = "QUERY_KEY_{query}"\n')
    async with bare.sandbox.hold(query):
        job = (await bare.post(query, client="narrow", max_age=0)).job
        await bare.sandbox.wait_executions(1)
        asked = definitions_asked(bare)
        bare.clock.turn(61)
    await bare.finish(job["id"], client="narrow")
    assert definitions_asked(bare) == asked + 1


async def test_rows_of_a_newer_definition_are_judged_by_that(world: World) -> None:
    # The value fits the known definition, so nothing is requested again; Redash runs what is written there now.
    options = parameter("x", "enum", "DE", enumOptions="DE\nFR")
    query = await known(world, "select '{{ x }}' as x", options)
    world.sandbox.edit_query(
        query, query="select 'secret {{ x }}' as x", options={"parameters": [parameter("x", "text", "DE")]}
    )
    reply = await world.post(query, wait=5, max_age=0, parameters={"x": "DE"})
    assert reply.status == 200, reply.body
    assert reply.job["status"] == 4
    assert "was edited" in reply.job["error"]
    job = await world.finish(reply.job["id"])
    assert job["query_result_id"] is None


async def test_rows_of_a_newer_definition_that_permits_them_are_given(world: World) -> None:
    options = parameter("x", "enum", "DE", enumOptions="DE\nFR")
    query = await known(world, "select '{{ x }}' as x", options)
    world.sandbox.edit_query(query, query="select '{{ x }}' as x, 2 as y")
    assert await world.rows(query, max_age=0, parameters={"x": "DE"}) == [{"x": "DE", "y": 2}]


# -- typed parameters


QUOTE = "2024-06-01' --"
REFUSED = [
    ("on_day", {"day": QUOTE}),
    ("on_day", {"day": "June 1 2024"}),
    ("on_day", {"day": "2024-06-01;"}),
    ("on_day", {"day": "2024-06-01/* */"}),
    ("on_day", {"day": "2024-06-01'08:00"}),  # Python takes any character for the `T`
    ("on_day", {"day": "2024-02-30"}),
    ("on_day", {"day": "d_now"}),
    ("on_day", {"day": ["2024-06-01"]}),
    ("since", {"since": "2024-06-01 08:00' or 1=1 --"}),
    ("at_second", {"until": "2024-06-01 08:00:00 --"}),
    ("revenue_by_month", {"period": {"start": "2024-01-01", "end": QUOTE}}),
    ("revenue_by_month", {"period": {"start": "2024-01-01"}}),
    ("revenue_by_month", {"period": "2024-01-01"}),
    ("between", {"window": {"start": QUOTE, "end": "2024-01-01"}}),
    ("above", {"min_amount": "1 union select 1"}),
    ("above", {"min_amount": "1\n2"}),
    ("above", {"min_amount": [1]}),
    ("above", {"min_amount": None}),
    ("above", {"min_amount": "9" * 8_000 + "x"}),
    ("in_country", {"country": "XX"}),
    ("in_country", {"country": ["DE"]}),
    ("multi", {"statuses": ["paid", "'"]}),
    ("multi", {"statuses": {"paid": 1}}),
    ("dropdown", {"country": {"DE": 1}}),
    ("dropdown", {"country": ["DE"]}),
    ("pattern", {"code": 1}),
    ("above", {"min_amount": 1, "other": 2}),
]


@pytest.mark.parametrize(("name", "values"), REFUSED)
async def test_values_that_could_be_sql_are_refused(world: World, name: str, values: dict[str, Any]) -> None:
    # CONTRACT 25.8: Redash checks dates with dateutil, which skips quotes and dashes.
    reply = await world.post(name, max_age=0, parameters=values)
    assert reply.status == 400, reply.body
    assert next(iter(values)) in error_of(reply) or "other" in error_of(reply)
    assert posts(world) == []


@pytest.mark.parametrize("value", [QUOTE, "June 1 2024", "2024-06-01;", "2024-06-01'08:00"])
@pytest.mark.parametrize(
    ("name", "argument"), [("on_day", "p_day"), ("since", "p_since"), ("revenue_by_month", "p_period.start")]
)
async def test_the_get_form_refuses_them_too(world: World, name: str, argument: str, value: str) -> None:
    rest = "&p_period.end=2024-01-01" if "period" in argument else ""
    path = f"/api/queries/{world.named[name]}/results.csv?{argument}={quote(value)}{rest}"
    reply = await world.get(path)
    assert reply.status == 400, reply.body
    assert posts(world) == []


ACCEPTED = [
    ("on_day", {"day": "2024-06-01"}),
    ("since", {"since": "2024-06-01 08:00"}),
    ("since", {"since": "2024-06-01T08:00"}),
    ("at_second", {"until": "2024-06-01 08:00:59"}),
    ("at_second", {"until": "2024-06-01T08:00:59.123Z"}),
    ("at_second", {"until": "2024-06-01T08:00:59+02:00"}),
    ("revenue_by_month", {"period": {"start": "2024-01-01", "end": "2024-02-01"}}),
    ("above", {"min_amount": 450}),
    ("above", {"min_amount": "450"}),
    ("above", {"min_amount": " 450.5 "}),
    ("above", {"min_amount": "1e3"}),
    ("in_country", {"country": "FR"}),
    ("multi", {"statuses": ["paid"]}),
    ("dropdown", {"country": "FR"}),
    ("pattern", {"code": "P2"}),
]


@pytest.mark.parametrize(("name", "values"), ACCEPTED)
async def test_what_redashs_front_end_sends_is_passed_on(world: World, name: str, values: dict[str, Any]) -> None:
    await world.rows(name, max_age=0, parameters=values)
    assert posts(world)[-1] == values


async def test_members_of_a_range_that_no_tag_names_are_not_sent(world: World) -> None:
    # CONTRACT 6: Redash ignores them.
    dates = {"start": "2024-01-01", "end": "2024-02-01"}
    await world.rows("revenue_by_month", max_age=0, parameters={"period": {**dates, "foo": INJECTION}})
    assert posts(world)[-1] == {"period": dates}


async def test_a_tag_for_another_member_of_a_range_is_raw_sql(world: World) -> None:
    # Redash checks start and end only, and renders `{{ d.foo }}` as it is given.
    period = parameter("d", "date-range", {"start": "2024-01-01", "end": "2024-02-01"})
    query = world.sandbox.add_query("foo", "select '{{ d.start }}' as a, {{ d.foo }} as b", parameters=[period])
    values = {"d": {"start": "2024-01-01", "end": "2024-02-01", "foo": INJECTION}}
    reply = await world.post(query, max_age=0, parameters=values)
    assert reply.status == 403, reply.body
    assert posts(world) == []
    values["d"]["foo"] = "7"
    assert await world.rows(query, client="sql", max_age=0, parameters=values) == [{"a": "2024-01-01", "b": 7}]
