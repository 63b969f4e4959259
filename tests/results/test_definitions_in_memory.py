"""Definitions in memory: bounded in bytes, and of a size that can be looked at for each request."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import World

from gateway.errors import UpstreamUnusable
from gateway.model import Definition
from gateway.redash.objects import LONGEST_PARAMETERS, MOST_PARAMETERS, parse_definition
from gateway.results.known_definitions import KnownDefinitions

PLACES = st.tuples(st.integers(1, 4), st.sampled_from("ab"))


def query_object(*, parameters: list[dict[str, object]], text: str = "select 1") -> bytes:
    return json.dumps(
        {
            "id": 1,
            "name": "a query",
            "query": text,
            "updated_at": "2026-01-01T00:00:00Z",
            "query_hash": "0" * 32,
            "options": {"parameters": parameters},
        }
    ).encode()


def definition(text: str = "") -> Definition:
    return parse_definition(query_object(parameters=[], text=text), 0.0)


@given(
    st.lists(st.tuples(st.sampled_from(["put", "get", "forget", "forget all", "invalidate"]), PLACES, st.booleans()))
)
def test_what_is_known_is_bounded_and_as_valid_as_it_was_put(steps: list[tuple[str, tuple[int, str], bool]]) -> None:
    known, model = KnownDefinitions(6_000), dict[tuple[int, str], bool]()
    made = definition("x" * 200)
    for step, place, valid in steps:
        if step == "put":
            known.put(place, made, valid=valid)
            model[place] = valid
        elif step == "get":
            assert known.get(place) in (made, None)
        elif step == "forget":
            known.delete(place)
            model.pop(place, None)
        elif step == "forget all":
            known.delete_query(place[0])
            model = {other: valid for other, valid in model.items() if other[0] != place[0]}
        else:
            known.invalidate(place[0])
            model = {other: valid and other[0] != place[0] for other, valid in model.items()}
        assert known.bytes <= 6_000
        for other in [(number, scope) for number in range(1, 5) for scope in "ab"]:
            # One may be forgotten for want of room, but nothing is valid that was invalidated.
            assert not known.is_valid(other) or model[other]
    for place in list(model):
        known.delete(place)
    assert (len(known), known.bytes) == (0, 0)


def test_the_least_recently_used_is_forgotten_first() -> None:
    size = KnownDefinitions(10**6)
    size.put((1, "a"), definition(), valid=True)
    known = KnownDefinitions(3 * size.bytes)
    for number in (1, 2, 3):
        known.put((number, "a"), definition(), valid=True)
    known.get((1, "a"))
    known.put((4, "a"), definition(), valid=True)
    assert [known.get((number, "a")) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_definition_without_room_is_not_kept() -> None:
    known = KnownDefinitions(10_000)
    known.put((1, "a"), definition(), valid=True)
    known.put((2, "a"), definition("x" * 20_000), valid=True)
    assert known.get((2, "a")) is None
    assert known.get((1, "a")) is not None


async def test_definitions_of_many_large_queries_are_bounded_together(bare: World) -> None:
    # 10,000 of any size were kept: with a megabyte of SQL each, ten gigabytes.
    await bare.start(cache='memory = "4MB"')
    sql = "select 1 -- " + "x" * 100_000
    ids = [bare.sandbox.add_query(f"Large {number}", sql) for number in range(20)]
    for query_id in ids:
        assert (await bare.get(f"/api/queries/{query_id}/results.json?max_age=0", prefer="wait=5")).status == 200
    known = bare.runtime.results.definitions._known
    assert 0 < known.bytes <= 1_000_000
    assert len(known) < len(ids)
    assert (await bare.get(f"/api/queries/{ids[0]}/results.json?max_age=60")).status == 200


@pytest.mark.parametrize(
    "parameters",
    [
        [{"name": f"p{number}", "type": "number"} for number in range(MOST_PARAMETERS + 1)],
        [{"name": "p", "type": "enum", "enumOptions": "a\n" * (LONGEST_PARAMETERS // 2)}],
    ],
    ids=["many", "long"],
)
def test_parameters_that_take_long_to_check_are_refused(parameters: list[dict[str, object]]) -> None:
    # All of them are looked at for each request, on the event loop.
    with pytest.raises(UpstreamUnusable, match="parameters"):
        parse_definition(query_object(parameters=parameters), 0.0)


async def test_a_query_of_too_many_parameters_is_502(world: World) -> None:
    many = [{"name": f"p{number}", "type": "number", "value": 1} for number in range(MOST_PARAMETERS + 1)]
    query_id = world.sandbox.add_query("Many", "select {{p1}}", parameters=many)
    reply = await world.post(query_id, parameters={"p1": 1})
    assert reply.status == 502
    assert "parameters" in reply.json["detail"]
