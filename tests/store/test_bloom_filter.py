"""The Bloom filter: it never hides a stored key, and most misses do not read the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_helpers import FakeClock, entry, key, make_sqlite, opened

from gateway.body import Body
from gateway.store.sqlite.bloom import BloomFilter
from gateway.store.sqlite.database import Database

KEYS = st.binary(min_size=32, max_size=32)


@given(st.sets(KEYS), st.sets(KEYS))
def test_added_keys_may_be_contained(added: set[bytes], others: set[bytes]) -> None:
    keys = BloomFilter()
    keys.add(added)
    assert all(keys.may_contain(one) for one in added | others)  # nothing is certain before it is complete
    keys.complete = True
    assert all(keys.may_contain(one) for one in added)


def test_most_other_keys_are_not_contained() -> None:
    keys = BloomFilter()
    keys.add(map(key, range(100_000)))
    keys.complete = True
    assert sum(keys.may_contain(key(number)) for number in range(100_000, 110_000)) < 100


async def found_after_start(
    path: Path, clock: FakeClock, wanted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> list[bool]:
    """Whether a store finds each key after a start without reading the disk for the others."""
    async with opened(make_sqlite(path, clock)) as store:
        await store.upkeep.checked()
        reads = 0
        run = Database.run

        async def counted(self: Database, *arguments: object, **more: object) -> object:
            nonlocal reads
            reads += 1
            return await run(self, *arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Database, "run", counted)
        found = [await store.get(one) is not None for one in wanted]
        monkeypatch.setattr(Database, "run", run)
        assert reads <= found.count(True) + 1
        return found


async def test_after_a_restart_everything_is_found_and_misses_do_not_read_the_disk(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        for number in range(2_500):  # more than are read in one step
            await store.put([key(number)], entry(number), Body.of(b"x"))
    wanted = [key(number) for number in range(0, 2_500, 50)] + [key(number) for number in range(3_000, 3_050)]
    assert await found_after_start(path, clock, wanted, monkeypatch) == [True] * 50 + [False] * 50
