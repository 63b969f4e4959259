"""The table of known definitions: never beyond its bounds, and what is invalidated never looks current."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import World

from gateway.concurrency.marks import MOST_KEYS
from gateway.errors import UpstreamUnusable
from gateway.model import Definition
from gateway.redash.objects import LONGEST_PARAMETERS, MOST_PARAMETERS, parse_definition
from gateway.results.known_definitions import KnownDefinitions


def query_object(query_id: int = 1, *, parameters: list[dict[str, object]], text: str = "select 1") -> bytes:
    return json.dumps(
        {
            "id": query_id,
            "name": "a query",
            "query": text,
            "updated_at": "2026-01-01T00:00:00Z",
            "query_hash": "0" * 32,
            "options": {"parameters": parameters},
        }
    ).encode()


def definition(query_id: int, size: int = 0) -> Definition:
    return parse_definition(query_object(query_id, parameters=[], text="x" * size), 0.0)


LIMIT = 20_000
QUERIES = st.integers(1, 6)
PLACES = [(query_id, scope) for query_id in range(1, 7) for scope in "ab"]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), QUERIES, st.sampled_from("ab"), st.sampled_from([1, 3_000, 9_000, 50_000]), st.booleans()
        ),
        st.tuples(st.sampled_from(["drop", "pop"]), QUERIES),
        st.tuples(st.just("pop_one"), QUERIES, st.sampled_from("ab")),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_gives_what_was_put_last_or_nothing_and_stays_within_its_bounds(steps: list[tuple[object, ...]]) -> None:
    table = KnownDefinitions(LIMIT)
    last: dict[tuple[int, str], tuple[Definition, bool]] = {}
    for name, query_id, *rest in steps:
        assert isinstance(query_id, int)
        if name == "put":
            scope, size, valid = rest
            assert isinstance(scope, str)
            assert isinstance(size, int)
            assert isinstance(valid, bool)
            made = definition(query_id, size)
            table.put(scope, made, valid=valid)
            last[query_id, scope] = made, valid
            assert table.get((query_id, scope)) is (made if size < LIMIT else None), (
                "the newest is not dropped for others"
            )
        elif name == "pop_one":
            last.pop((query_id, str(rest[0])), None)
            table.pop_one((query_id, str(rest[0])))
        else:
            before = table.generation(query_id)
            getattr(table, str(name))(query_id)
            assert (table.generation(query_id) != before) is (name == "drop")
            held = {place: known for place, known in last.items() if place[0] == query_id}
            last = {place: known for place, known in last.items() if place not in held}
            if name == "drop":
                last |= {place: (known, False) for place, (known, _) in held.items()}
        for place in PLACES:
            # One may be dropped for want of room, but nothing is valid that was invalidated.
            found = table.get(place)
            assert found is None or (found, table.is_valid(place)) == last[place]
            assert found is not None or not table.is_valid(place)
        assert table.bytes <= LIMIT
    for query_id in range(1, 7):
        table.pop(query_id)
    assert (table.bytes, len(table)) == (0, 0)


def test_the_least_recently_used_is_dropped_first() -> None:
    one = KnownDefinitions(10**6)
    one.put("a", definition(1), valid=True)
    known = KnownDefinitions(3 * one.bytes)
    for number in (1, 2, 3):
        known.put("a", definition(number), valid=True)
    known.get((1, "a"))
    known.put("a", definition(4), valid=True)
    assert [known.get((number, "a")) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_definition_without_room_is_not_kept_and_takes_nobodys_room() -> None:
    known = KnownDefinitions(10_000)
    known.put("a", definition(1), valid=True)
    known.put("a", definition(2, 20_000), valid=True)
    assert known.get((2, "a")) is None
    assert known.get((1, "a")) is not None


def test_a_drop_is_seen_however_many_other_queries_were_dropped() -> None:
    # A client may write to any number of ids that do not exist: the numbers are bounded, and never return.
    table = KnownDefinitions(LIMIT)
    seen = {table.generation(1)}
    for other in range(2, 2 * MOST_KEYS):
        table.drop(other)
        if other % 3_000 == 0:
            table.drop(1)
            assert table.generation(1) not in seen
        seen.add(table.generation(1))
    assert len(table._generations._by_key) <= MOST_KEYS


async def test_definitions_take_an_eighth_of_the_memory_at_most(bare: World) -> None:
    # 10,000 queries were kept, whatever their SQL weighed: with a megabyte each, ten gigabytes.
    await bare.start(cache='memory = "8MB"')
    queries = [bare.sandbox.add_query(f"q{n}", f"select {n} -- " + "x" * 100_000) for n in range(20)]
    for query_id in queries:
        assert (await bare.get(f"/api/queries/{query_id}/results.json?max_age=0", prefer="wait=5")).status == 200
    known = bare.runtime.results.definitions._known
    assert 500_000 < known.bytes <= 1_000_000
    assert len(known) < 10
    assert (await bare.get(f"/api/queries/{queries[0]}/results.json?max_age=60")).status == 200


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
