"""Several gateways with one Redis: what one has done holds for all; what stands in Redis is checked when it is read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from store_helpers import MB, FakeClock, bytes_of, entry, heard, key, make_redis, noise, opened, spooled

from gateway.body import Body
from gateway.store.protocols import Fence
from gateway.store.redis import layout
from gateway.store.redis.store import RedisStore
from gateway.store.redis.transfer import Transfer

pytestmark = pytest.mark.usefixtures("patience")

ROWS = b"rows" * 100


@pytest.fixture
async def pair(path: Path, clock: FakeClock) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(opened(make_redis(path, clock))) for _ in range(2)]
        yield one, other


async def names(store: RedisStore) -> list[bytes]:
    found: list[bytes] = await store.link.command("KEYS", store.link.base + "*")
    return [name.removeprefix(store.link.base.encode()) for name in found]


# -- one gateway and another


async def test_what_one_stores_another_finds(pair: Any) -> None:
    one, other = pair
    large = noise(MB + 1)
    await one.put([key(1)], entry(1), Body.of(ROWS))
    await one.put([key(2)], entry(2), await spooled(one, large))
    assert (await bytes_of(other, 1), await bytes_of(other, 2)) == (ROWS, large)
    assert other.peek(key(1)) is not None
    assert other.peek_body(other.peek(key(2))).path is not None, "a large body is not kept in memory"


async def test_many_who_want_a_large_body_fetch_it_once(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair
    await one.put([key(1)], entry(), await spooled(one, noise(MB)))
    await heard(other)
    downloads = 0
    download = Transfer.download

    async def counted(*arguments: Any) -> Body:
        nonlocal downloads
        downloads += 1
        return await download(*arguments)

    monkeypatch.setattr(Transfer, "download", counted)
    found = await asyncio.gather(*(bytes_of(other, 1) for _ in range(20)))
    assert found == [noise(MB)] * 20
    assert downloads == 1


async def test_a_newer_result_of_another_gateway_replaces_the_one_in_memory(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry("old"), Body.of(b"old"))
    assert await bytes_of(other, 1) == b"old"
    await one.put([key(1)], entry("new"), Body.of(b"new"))
    await heard(other)
    assert other.peek(key(1)) is None
    assert await bytes_of(other, 1) == b"new"


async def test_a_result_that_is_too_large_for_all_takes_the_older_one_away_everywhere(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry("old"), Body.of(b"old"))
    assert await bytes_of(other, 1) == b"old"
    await one.put([key(1)], entry("new"), await spooled(one, noise(5 * MB)))
    await heard(other)
    assert await bytes_of(other, 1) is None
    assert await bytes_of(one, 1) == noise(5 * MB)


async def test_what_one_gateway_denies_counts_as_never_confirmed_in_all(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    assert (await other.get(key(1))).confirmed == 4_500.0
    await one.confirm(key(1), -math.inf)
    await heard(other)
    assert (await other.get(key(1))).confirmed == -math.inf


async def test_a_confirmation_is_not_that_of_another_result(pair: Any) -> None:
    """The other gateway confirms what it has in memory, and has not heard yet of a newer result."""
    one, other = pair
    await one.put([key(1)], entry("old"), Body.of(b"old"))
    await other.get(key(1))
    await one.put([key(1)], entry("new", confirmed=4_100.0), Body.of(b"new"))
    other._memory.insert([key(1)], entry("old"), Body.of(b"old"))
    await other.confirm(key(1), 4_900.0)
    await heard(other)
    other._memory.remove_keys([key(1)])
    assert (await other.get(key(1))).confirmed == 4_100.0


@pytest.mark.parametrize("invalidates", ["delete", "confirm"])
async def test_what_is_fetched_while_a_script_is_sent_again_does_not_stay_in_memory(
    pair: Any, invalidates: str
) -> None:
    """A server that was restarted knows no script yet, so the purge comes after the fetch that began after it."""
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    await other.link.command("SCRIPT", "FLUSH")
    await other.get(key(2))  # now it knows the script of a fetch
    first = other.delete() if invalidates == "delete" else other.confirm(key(1), -math.inf)
    await asyncio.gather(first, other.get(key(1)))
    seen = other.peek(key(1))
    assert seen is None or seen.confirmed == -math.inf


@pytest.mark.parametrize("what", [{}, {"scope": "s"}, {"query_id": 1}, {"scope": "s", "query_id": 1}])
async def test_a_purge_holds_in_all_gateways(pair: Any, what: dict[str, Any]) -> None:
    one, other = pair
    await one.put([key(1)], entry(1), Body.of(ROWS))
    await one.put([key(2)], entry(2, scope="t", query_id=2), Body.of(ROWS))
    for name in (1, 2):
        await other.get(key(name))
    assert await one.delete(**what) == 1 + (not what)
    await heard(other)
    assert other.peek(key(1)) is None
    assert await bytes_of(other, 1) is None
    assert (await bytes_of(other, 2) is None) == (not what)


async def test_what_is_purged_is_gone_before_its_memory_is_freed(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    monkeypatch.setattr(one._tier, "clean", lambda *_: nothing())
    await one.delete(scope="s", query_id=1)
    assert await bytes_of(other, 1) is None
    await one.put([key(1)], entry(), Body.of(ROWS))
    assert await bytes_of(other, 1) == ROWS


async def nothing() -> int:
    return 0


@pytest.mark.parametrize("what", [{}, {"scope": "s"}, {"query_id": 1}, {"scope": "s", "query_id": 1}])
async def test_a_gateway_that_has_not_heard_of_a_purge_stores_nothing(pair: Any, what: dict[str, Any]) -> None:
    """Its run may have begun before the purge: only who has heard of it can tell."""
    one, other = pair
    await one.delete(**what)
    await heard(other)
    other.link.seen.number -= 1
    await other.put([key(1)], entry(), Body.of(ROWS))
    assert (await bytes_of(one, 1), await bytes_of(other, 1)) == (None, None)
    await other.put([key(2)], entry(2, scope="t", query_id=2), Body.of(ROWS))
    assert await bytes_of(one, 2) == (ROWS if what else None)
    other.link.seen.number += 1
    await other.put([key(1)], entry(), Body.of(ROWS))
    assert await bytes_of(one, 1) == ROWS


async def test_a_result_is_stored_only_under_the_lease_that_led_to_it(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry("old"), Body.of(b"old"))
    await one.link.command("HSET", f"{one.link.base}l:{key(1).hex()}", "n", 7)
    await other.put([key(1)], entry("paused"), Body.of(b"paused"), Fence(key(1), 6))
    assert await one.link.command("HGET", one.link.base.encode() + b"e:" + key(1), "b") == entry("old").body_id
    assert await bytes_of(other, 1) == b"old", "nor does it serve by itself what it may not store"
    await other.put([key(1)], entry("new"), Body.of(b"new"), Fence(key(1), 7))
    await heard(one)
    assert await bytes_of(one, 1) == b"new"


async def test_memory_does_not_serve_while_it_may_have_missed_something(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    found = await other.get(key(1))
    assert other.holds(key(1), other.peek(key(1)))
    other.link.good_until = 0.0
    assert other.peek(key(1)) is None
    assert not other.holds(key(1), found)
    await one.link.command("FLUSHDB")
    assert await other.get(key(1)) is None


async def test_memory_is_dropped_when_an_announcement_was_missed(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    await other.get(key(1))
    other.link.seen.advance(other.link.seen.epoch, other.link.seen.number + 2)
    assert other._memory.peek(key(1)) is None


async def test_what_is_announced_during_a_fetch_is_not_copied_to_memory(pair: Any) -> None:
    """The reply may be older than the announcement: they come on different connections."""
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    await heard(other)
    fetch = other._tier.fetch

    async def late(wanted: bytes) -> Any:
        found = await fetch(wanted)
        await one.put([key(1)], entry("new"), Body.of(b"new"))
        await heard(other)
        return found

    other._tier.fetch = late
    await other.get(key(1))
    assert other.peek(key(1)) is None


async def test_a_body_for_which_a_gateway_has_no_room_is_a_miss_there(path: Path, clock: FakeClock) -> None:
    async with (
        opened(make_redis(path, clock)) as one,
        opened(make_redis(path, clock, memory_bytes=MB)) as small,
    ):
        await one.put([key(1)], entry(), await spooled(one, noise(3 * MB)))
        assert await small.get(key(1)) is None
        assert await bytes_of(one, 1) == noise(3 * MB)


# -- what stands in Redis


async def test_every_name_in_redis_begins_with_prefix_and_format(pair: Any) -> None:
    one, _ = pair
    before = set(await one.link.command("KEYS", "*"))
    for name in (1, 2):
        await one.put([key(name)], entry(name), await spooled(one, noise(MB)))
    await one.delete(query_id=2)
    added = set(await one.link.command("KEYS", "*")) - before
    assert added
    assert all(name.startswith(one.link.base.encode()) for name in added)


async def test_an_entry_under_another_key_is_not_read(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    base = one.link.base.encode() + b"e:"
    await one.link.command("COPY", base + key(1), base + key(2))
    assert await other.get(key(2)) is None
    assert await bytes_of(other, 1) == ROWS


@pytest.mark.parametrize("data", [b"", b"\x00other", b"\x01", b"\x01garbage", b"\x02" + ROWS])
async def test_damaged_bytes_are_a_miss_once(pair: Any, data: bytes) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    await one.link.command("HSET", one.link.base.encode() + b"b:" + entry().body_id, "x", data)
    assert await other.get(key(1)) is None
    assert b"e:" + key(1) not in await names(one), "nobody finds it again"


@pytest.mark.parametrize("command", ["DEL", "SET"])
async def test_a_large_body_with_a_damaged_piece_is_a_miss(pair: Any, command: str) -> None:
    one, other = pair
    await one.put([key(1)], entry(), await spooled(one, noise(MB)))
    (name,) = [name for name in await names(one) if name.startswith(b"c:") and name.endswith(b":2")]
    await one.link.command(command, one.link.base.encode() + name, *([] if command == "DEL" else [b"\x00x"]))
    assert await other.get(key(1)) is None
    assert not [name for name in await names(one) if name.startswith((b"c:", b"e:", b"b:"))]


async def test_entries_that_cannot_be_read_are_a_miss(pair: Any) -> None:
    one, other = pair
    await one.put([key(1)], entry(), Body.of(ROWS))
    await one.link.command("HSET", one.link.base.encode() + b"e:" + key(1), "v", b"\xc1")
    assert await other.get(key(1)) is None


async def test_bodies_are_compressed_where_that_helps(pair: Any) -> None:
    one, other = pair
    rows = b'{"name": "value"},' * 100_000
    await one.put([key(1)], entry(1), await spooled(one, rows))
    await one.put([key(2)], entry(2), Body.of(noise(100_000)))
    await one.flush()
    assert 100_000 < one._tier.bytes < 100_000 + len(rows) // 10
    assert (await bytes_of(other, 1), await bytes_of(other, 2)) == (rows, noise(100_000))


async def test_pieces_of_a_body_that_was_never_complete_expire(pair: Any) -> None:
    one, _ = pair
    await one._transfer.upload(await spooled(one, noise(MB)))
    left = [name for name in await names(one) if name.startswith(b"c:")]
    assert len(left) == 4
    assert all([0 < await one.link.command("PTTL", one.link.base.encode() + n) <= 60_000 for n in left])
    await one.put([key(1)], entry(), await spooled(one, noise(MB)))
    stays = [name for name in await names(one) if name.startswith(b"c:") and name not in left]
    assert [await one.link.command("PTTL", one.link.base.encode() + n) for n in stays] == [-1] * 4


async def test_a_result_that_is_used_by_one_gateway_is_not_evicted_by_another(path: Path, clock: FakeClock) -> None:
    async with opened(make_redis(path, clock, disk_bytes=MB)) as one, opened(make_redis(path, clock)) as other:
        other._tier.limit = MB
        for number in range(30):
            await one.put([key(number)], entry(number), Body.of(noise(90_000, number)))
            await other.get(key(0))
            await other._tier.protect()
        assert await bytes_of(make_sure_of(one), 0) is not None
        assert int(await one.link.command("GET", one.link.base + "bytes")) <= MB


def make_sure_of(store: RedisStore) -> RedisStore:
    """Without what its memory has."""
    store._memory.remove(None, None)
    return store


async def test_marks_of_purges_are_bounded(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair
    monkeypatch.setattr(layout, "MOST_MARKS", 5)
    await one.put([key(1)], entry(query_id=99), Body.of(ROWS))
    for number in range(6):
        await one.delete(query_id=number)
    assert await one.link.command("HLEN", one.link.base + "purged") == 1
    assert await bytes_of(other, 1) is None, "it may have been meant by a mark that is gone"


async def test_the_books_are_right_after_many_operations(pair: Any) -> None:
    random = Random(7)
    stores = pair
    for _ in range(300):
        store, name, size = random.choice(stores), random.randrange(12), random.choice((10, 5_000, 300_000))
        what = random.random()
        if what < 0.6:
            stored = entry((name % 5, size), scope=random.choice("st"), query_id=name % 3)
            await store.put([key(name), key(name + 1)], stored, Body.of(noise(size, size)))
        elif what < 0.8:
            await store.get(key(name))
        elif what < 0.9:
            await store.delete(scope=random.choice(("s", None)), query_id=random.choice((0, 1)))
        elif what < 0.95:
            await store._tier.drop([key(name)])
        else:
            await store._tier.make_room(random.choice((0, 15 * MB)))
    await books_are_right(stores[0])
    await stores[0].delete()
    assert {name for name in await names(stores[0]) if name[:2] in (b"e:", b"b:", b"c:", b"u:", b"q:")} == set()
    assert int(await stores[0].link.command("GET", stores[0].link.base + "bytes")) == 0


async def books_are_right(store: RedisStore) -> None:
    """Counters and indexes say what is there."""
    there, base = await names(store), store.link.base.encode()
    entries = {name[2:] for name in there if name.startswith(b"e:")}
    bodies = {name[2:] for name in there if name.startswith(b"b:")}
    weights = {
        body: [int(n) for n in await store.link.command("HMGET", base + b"b:" + body, "w", "k")] for body in bodies
    }
    used = sum(weight + layout.BODY_BYTES for weight, _ in weights.values()) + layout.ENTRY_BYTES * len(entries)
    assert int(await store.link.command("GET", base + b"bytes")) == used
    assert int(await store.link.command("GET", base + b"entries")) == len(entries)
    assert set(await store.link.command("ZRANGE", base + b"lru", 0, -1)) == bodies
    assert len([name for name in there if name.startswith(b"c:")]) == sum(count for _, count in weights.values())
    for index, owners in ((b"u:", bodies), (b"q:", set(await store.link.command("SMEMBERS", base + b"groups")))):
        found = {name[2:]: await store.link.command("SMEMBERS", base + name) for name in there if name[:2] == index}
        assert set(found) == owners
        assert sorted(key for keys in found.values() for key in keys) == sorted(entries)
