"""The table of known definitions: never beyond its bounds, and what is invalidated never looks current."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import World

from gateway.model import Definition
from gateway.results import known_definitions
from gateway.results.known_definitions import KnownDefinitions


def definition(query_id: int, size: int) -> Definition:
    return Definition(
        query_id=query_id,
        name="name",
        text="x" * size,
        marker="",
        query_hash="",
        data_source_id=1,
        latest_result_id=None,
        parameters=(),
        tags=(),
        auto_limit=False,
    )


LIMIT = 20_000
QUERIES = st.integers(1, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), QUERIES, st.sampled_from("ab"), st.sampled_from([1, 3_000, 9_000, 50_000])),
        st.tuples(st.sampled_from(["drop", "pop"]), QUERIES),
        st.tuples(st.sampled_from(["pop_one", "invalidate", "validate"]), QUERIES, st.sampled_from("ab")),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_gives_what_was_put_last_or_nothing_and_stays_within_its_bounds(steps: list[tuple[object, ...]]) -> None:
    table = KnownDefinitions(LIMIT)
    last: dict[tuple[int, str], Definition] = {}
    places = [(query_id, scope) for query_id in range(1, 7) for scope in "ab"]
    for name, query_id, *rest in steps:
        assert isinstance(query_id, int)
        if name == "put":
            scope, size = rest
            assert isinstance(scope, str)
            assert isinstance(size, int)
            made = definition(query_id, size)
            table.put(scope, made)
            last[query_id, scope] = made
            assert table.get((query_id, scope)) is made, "the newest is never dropped for older ones"
        elif name in ("drop", "pop"):
            before = table.generation(query_id)
            getattr(table, str(name))(query_id)
            assert (table.generation(query_id) != before) is (name == "drop")
            held = [place for place in places if place[0] == query_id and table.get(place) is not None]
            assert not (name == "pop" and held)
            assert all(map(table.is_invalidated, held))
        else:
            place = (query_id, str(rest[0]))
            if name == "pop_one" or table.get(place) is not None:
                getattr(table, str(name))(place)
                assert table.is_invalidated(place) is (name == "invalidate")
        assert all(table.get(place) in (None, last.get(place)) for place in places)
        assert table.bytes <= LIMIT or len(table) == 1
    for query_id in range(1, 7):
        table.pop(query_id)
    assert (table.bytes, len(table)) == (0, 0)


def test_a_drop_is_seen_however_many_other_queries_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    # A client may write to any number of ids that do not exist: the numbers are bounded, and never return.
    monkeypatch.setattr(known_definitions, "MOST_KNOWN", 10)
    table = KnownDefinitions(LIMIT)
    seen = {table.generation(1)}
    for other in range(2, 60):
        table.drop(other)
        if other % 7 == 0:
            table.drop(1)
            assert table.generation(1) not in seen
        seen.add(table.generation(1))
    assert len(table._generations) <= 10


async def test_definitions_take_an_eighth_of_the_memory_at_most(bare: World) -> None:
    # 10,000 queries were kept, whatever their SQL weighed.
    await bare.start(cache='memory = "8MB"')
    queries = [bare.sandbox.add_query(f"q{n}", f"select {n} -- " + "x" * 100_000) for n in range(20)]
    for query_id in queries:
        assert (await bare.get(f"/api/queries/{query_id}/results.json")).status == 404
    known = bare.runtime.results.definitions._known
    assert 500_000 < known.bytes <= 1_000_000
    assert len(known) < 10
