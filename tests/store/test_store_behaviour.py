"""What every store must promise, whatever it is made of."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from store_helpers import MAKERS, MB, FakeClock, bytes_of, entry, key, make_layered, noise, opened, spooled

from gateway.body import Body

pytestmark = pytest.mark.usefixtures("patience")


async def settled(store: Any) -> None:
    """Half of the tests run twice: right after `put`, and when everything is in the file."""
    for part in (store, getattr(store, "backing", None)):
        if hasattr(part, "flush"):
            await part.flush()


async def swept(store: Any) -> None:
    for part in (store, getattr(store, "backing", None)):
        if hasattr(part, "sweep"):
            await part.sweep()


@pytest.fixture(params=["at once", "written"])
def moment(request: pytest.FixtureRequest) -> Any:
    return settled if request.param == "written" else (lambda store: settled_not())


async def settled_not() -> None:
    return None


async def test_unknown_key_is_none(store: Any) -> None:
    assert await store.get(key("nothing")) is None
    assert await store.read(entry()) is None


async def test_a_stored_entry_is_found_with_all_fields(store: Any, moment: Any) -> None:
    stored = entry(marker="2026", query_hash="h", retrieved_at="then", runtime=1.5, result_id=2**52 + 1)
    await store.put([key(1)], stored, Body.of(b"rows"))
    await moment(store)
    found = await store.get(key(1))
    assert found == msgspec.structs.replace(stored, size=4)
    assert await bytes_of(store, 1) == b"rows"


async def test_a_confirmation_at_minus_infinity_survives(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(confirmed=-math.inf), Body.of(b"rows"))
    await moment(store)
    assert (await store.get(key(1))).confirmed == -math.inf


async def test_several_keys_share_one_body(store: Any, moment: Any, clock: FakeClock) -> None:
    await store.put([key(1), key(2)], entry(), Body.of(noise(MB)))
    await store.put([key(3)], entry(result_id=9), Body.of(noise(MB)))
    await moment(store)
    assert [await bytes_of(store, name) for name in (1, 2, 3)] == [noise(MB)] * 3
    assert (await store.get(key(3))).result_id == 9
    assert (await store.get(key(1))).result_id == 7
    await settled(store)
    clock.advance(11)
    await swept(store)
    assert all(MB < tier.bytes < 2 * MB and tier.entries == 3 for tier in store.stats())


async def test_last_put_wins(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry("old"), Body.of(b"old"))
    await moment(store)
    await store.put([key(1)], entry("new"), Body.of(b"new"))
    await moment(store)
    assert await bytes_of(store, 1) == b"new"


async def test_other_bytes_under_one_body_id_leave_older_keys_without_them(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(), Body.of(b"one"))
    await moment(store)
    await store.put([key(2)], entry(), Body.of(b"two"))
    await settled(store)
    assert await bytes_of(store, 1) in (None, b"two")
    assert await bytes_of(store, 2) == b"two"


async def test_large_body_in_memory(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(), Body.of(b"y" * MB))
    await moment(store)
    assert await bytes_of(store, 1) == b"y" * MB


async def test_spooled_body(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(), await spooled(store, b"z" * MB))
    await moment(store)
    found = await store.get(key(1))
    body = await store.read(found)
    assert body.path is not None
    assert (body.size, found.size, body.load()) == (MB, MB, b"z" * MB)


async def test_evicted_file_stays_for_ten_seconds(store: Any, moment: Any, clock: FakeClock) -> None:
    await store.put([key(1)], entry(), await spooled(store, b"z" * MB))
    await moment(store)
    body = await store.read(await store.get(key(1)))
    await store.delete()
    sweep = getattr(store, "backing", store).sweep
    clock.advance(9.9)
    await sweep()
    assert body.path.exists()
    clock.advance(0.2)
    await sweep()
    assert not body.path.exists()


async def test_body_over_the_entry_limit_is_stored_for_a_minute(store: Any, clock: FakeClock) -> None:
    await store.put([key(1)], entry("small"), Body.of(b"small"))
    await store.put([key(1)], entry("big"), await spooled(store, b"b" * (5 * MB)))
    await settled(store)
    clock.advance(59)
    found = await store.get(key(1))
    body = await store.read(found)
    assert body.size == 5 * MB
    clock.advance(2)
    assert await store.get(key(1)) is None
    clock.advance(0)
    await swept(store)
    clock.advance(11)
    await getattr(store, "backing", store).sweep()
    assert not body.path.exists()


async def test_confirm_changes_one_key_only(store: Any, moment: Any) -> None:
    await store.put([key(1), key(2)], entry(), Body.of(b"rows"))
    await moment(store)
    await store.confirm(key(1), 4_900.0)
    await store.confirm(key("nothing"), 4_900.0)
    await moment(store)
    assert (await store.get(key(1))).confirmed == 4_900.0
    assert (await store.get(key(2))).confirmed == 4_500.0


async def test_put_is_newer_than_an_earlier_confirmation(store: Any) -> None:
    await store.confirm(key(1), 4_900.0)
    await store.put([key(1)], entry(confirmed=4_000.0), Body.of(b"rows"))
    await settled(store)
    assert (await store.get(key(1))).confirmed == 4_000.0


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({}, set()),
        ({"scope": "s"}, {"t1", "t2"}),
        ({"query_id": 1}, {"s2", "t2"}),
        ({"scope": "t", "query_id": 2}, {"s1", "s2", "t1"}),
        ({"scope": "nobody"}, {"s1", "s2", "t1", "t2"}),
    ],
)
async def test_delete_by_scope_and_query(store: Any, moment: Any, what: dict[str, Any], left: set[str]) -> None:
    for scope in "st":
        for query in (1, 2):
            name = f"{scope}{query}"
            await store.put([key(name)], entry(name, scope=scope, query_id=query), Body.of(name.encode()))
    await moment(store)
    assert await store.delete(**what) == 4 - len(left)
    await settled(store)
    assert {name for name in ("s1", "s2", "t1", "t2") if await bytes_of(store, name)} == left
    assert all(tier.entries == len(left) for tier in store.stats())


async def test_it_says_of_which_queries_it_has_entries(store: Any, moment: Any) -> None:
    # A purge of a data source looks at each of them.
    assert await store.queries("s") == set()
    for scope, query in (("s", 1), ("s", 2), ("t", 3), ("s", 0)):
        name = f"{scope}{query}"
        await store.put([key(name)], entry(name, scope=scope, query_id=query), Body.of(name.encode()))
    await moment(store)
    assert [await store.queries(scope) for scope in "stu"] == [{0, 1, 2}, {3}, set()]
    await store.delete(scope="s", query_id=1)
    await settled(store)
    assert await store.queries("s") == {0, 2}


async def test_a_deleted_body_cannot_be_read(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(), Body.of(b"rows"))
    await moment(store)
    found = await store.get(key(1))
    await store.delete(scope="s", query_id=1)
    assert await store.read(found) is None


async def test_put_again_after_delete(store: Any, moment: Any) -> None:
    await store.put([key(1)], entry(), Body.of(b"rows"))
    await moment(store)
    await store.delete()
    await store.put([key(1)], entry(), Body.of(b"rows"))
    await settled(store)
    assert await bytes_of(store, 1) == b"rows"


async def test_shared_body_stays_until_its_last_entry_is_deleted(store: Any, moment: Any, clock: FakeClock) -> None:
    await store.put([key(1)], entry(), Body.of(b"r" * MB))
    await store.put([key(2)], entry(query_id=2), Body.of(b"r" * MB))
    await moment(store)
    await store.delete(query_id=1)
    assert await bytes_of(store, 2) == b"r" * MB
    await store.delete(query_id=2)
    await settled(store)
    clock.advance(11)
    await swept(store)
    assert all(tier.bytes < MB and tier.entries == 0 for tier in store.stats())


@pytest.mark.parametrize("kind", list(MAKERS))
async def test_bytes_stay_within_bounds_and_the_least_recently_used_are_evicted(
    kind: str, path: Any, clock: FakeClock
) -> None:
    made = MAKERS[kind](path, clock, memory_bytes=MB, disk_bytes=MB)
    async with opened(made) as store:
        for number in range(30):
            clock.advance(1)
            await store.put([key(number)], entry(number), Body.of(noise(90_000, number)))
            await settled(store)
            assert await bytes_of(store, 0) is not None, "used all the time"
        await settled(store)
        assert all(tier.bytes <= MB and tier.evictions > 0 for tier in store.stats())
        assert await bytes_of(store, 1) is None
        assert await bytes_of(store, 29) is not None


async def test_close_twice(store: Any) -> None:
    await store.put([key(1)], entry(), Body.of(b"rows"))
    await store.close()
    await store.close()


async def test_layered_store_copies_to_memory_what_it_finds_in_the_backing_store(path: Any, clock: FakeClock) -> None:
    async with opened(make_layered(path, clock)) as store:
        await store.put([key(1)], entry(1), Body.of(b"rows"))
        await store.put([key(2)], entry(2), await spooled(store, b"z" * MB))
    async with opened(make_layered(path, clock)) as store:
        assert store.peek(key(1)) is None
        for name, size in ((1, 4), (2, MB)):
            await store.get(key(name))
            assert store.peek_body(store.peek(key(name))).size == size


async def test_memory_removes_files_that_the_backing_store_evicts(path: Any, clock: FakeClock) -> None:
    async with opened(make_layered(path, clock, disk_bytes=4 * MB, memory_bytes=5_000)) as store:
        for number in range(5):
            await store.put([key(number)], entry(number), await spooled(store, bytes(MB)))
            await settled(store)
        there = [number for number in range(5) if store.peek(key(number))]
        assert all(store.peek_body(store.peek(key(number))).path.exists() for number in there)
        assert store.peek(key(0)) is None
