"""The results that all gateways share, as they stand in Redis. Knows no memory; raises the errors of `failures`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.model import Entry, Key, digest
from gateway.store.protocols import Fence
from gateway.store.redis import layout
from gateway.store.redis.invalidations import Selection
from gateway.store.redis.link import Link
from gateway.store.redis.transfer import StoredBody

CANDIDATES: Final = 64
"""Bodies that are looked at together when there must be room: a script for them takes less than a millisecond."""

EVICTIONS: Final = 100
GROUPS: Final = 32
STEP: Final = 500
"""Keys in one call of a script."""

NO_ROOM: Final = -1
LEAST_ROOM: Final = 2**20


class Terms(msgspec.Struct, frozen=True):
    """What is to be stored, and on which condition.

    `seen` is the last announcement that was heard when it was known that no purge forbids it: an epoch and a number.
    """

    keys: Sequence[Key]
    entry: Entry
    seen: tuple[str, int]
    fence: Fence | None = None


class SharedTier:
    """Bounded by `limit_bytes` together with the other gateways, which evict what was used least recently."""

    def __init__(self, link: Link, limit_bytes: int, is_recent: Callable[[bytes], bool]) -> None:
        """`is_recent`: whether this gateway has used that body lately; such bodies are evicted last."""
        self.limit = limit_bytes
        self.bytes = self.entries = 0
        """In Redis, as far as is known here."""
        self.evictions = 0
        """Bodies that this gateway has evicted."""
        self._link = link
        self._is_recent = is_recent

    async def fetch(self, key: Key) -> tuple[Entry, StoredBody] | None:
        """Return the entry under `key`, None without one."""
        found = await self._link.call(layout.FETCH, key)
        if found is None:
            return None
        packed, embedded, confirmed, *body = found
        try:
            entry = msgspec.msgpack.decode(packed, type=Entry) if embedded == key else None
        except msgspec.MsgspecError:
            entry = None
        if entry is None:
            await self.drop([key])
            return None
        times = {"born": self._link.time.local(entry.born), "confirmed": self._link.time.local(float(confirmed))}
        return msgspec.structs.replace(entry, **times), _stored(body)

    async def body(self, body_id: bytes) -> StoredBody | None:
        """Return what stands under `body_id`, None if there is nothing."""
        found = await self._link.call(layout.BODY, body_id)
        return _stored(found) if found is not None else None

    async def put(self, terms: Terms, body: StoredBody) -> bool:
        """Store an entry whose pieces are there; return False if that is forbidden: another gateway has the lease, or
        there was a purge. Where there is no room, only older entries are deleted.
        """
        weight = body.weight + layout.BODY_BYTES + layout.ENTRY_BYTES * len(terms.keys)
        for _ in range(3):
            number = await self._put(terms, body)
            if number > 0:
                self._link.seen.note_own(number)
            if number != NO_ROOM:
                return number > 0
            await self.make_room(weight)
        await self.drop(terms.keys)
        return True

    async def _put(self, terms: Terms, body: StoredBody) -> int:
        time, entry, fence, keys = self._link.time, terms.entry, terms.fence, terms.keys
        shared = msgspec.structs.replace(entry, born=time.shared(entry.born), confirmed=-math.inf, size=body.size)
        number: int = await self._link.call(
            layout.PUT,
            *(*terms.seen, _scope(entry.scope), entry.query_id, entry.body_id, body.digest),
            *(body.size, body.weight, body.token, body.count, body.data),
            *(msgspec.msgpack.encode(shared), time.shared(entry.confirmed), self.limit),
            *((fence.key.hex(), fence.number) if fence is not None else ("", "")),
            *(msgspec.msgpack.encode(list(keys)), *keys),
        )
        return number

    async def make_room(self, count: int) -> None:
        """Evict until there is room for so many more bytes, if that is possible."""
        for _ in range(EVICTIONS):
            found = await self._link.command("ZRANGE", self._link.base + "lru", 0, CANDIDATES - 1)
            recent = [body for body in found if self._is_recent(body)]
            others = [body for body in found if not self._is_recent(body)]
            if not others:
                recent, others = [], recent
            self.bytes, evicted = await self._link.call(layout.EVICT, self.limit - count, len(recent), *recent, *others)
            self.evictions += evicted
            if not found or self.bytes + count <= self.limit:
                return

    async def purge(self, selection: Selection) -> int:
        """Let the entries of a selection be gone for all gateways; return the number of the announcement."""
        mark, news = _mark(selection), msgspec.msgpack.encode(selection)
        number: int = await self._link.call(layout.PURGE, mark, news, layout.MOST_MARKS)
        self._link.seen.note_own(number)
        return number

    async def clean(self, selection: Selection, number: int) -> int:
        """Free the memory of what was purged; return how many entries there were."""
        scope, query = selection
        if scope is not None and query is not None:
            return await self._clean(_mark(selection), number)
        groups = await self._groups(_scope(scope) if scope is not None else None, query)
        count = 0
        for first in range(0, len(groups), GROUPS):
            some = groups[first : first + GROUPS]
            count += sum(await asyncio.gather(*(self._clean(group, number) for group in some)))
        return count

    async def _groups(self, scope: str | None, query: int | None) -> list[str]:
        names = [name.decode() for name in await self._scan("SSCAN", "groups")]
        split = [(name, *name.split(":")) for name in names]
        return [name for name, of, number in split if scope in (None, of) and query in (None, int(number))]

    async def queries(self, scope: str) -> set[int]:
        """Return the queries of which there are entries in a scope."""
        return {int(group.partition(":")[2]) for group in await self._groups(_scope(scope), None)}

    async def _scan(self, command: str, name: str) -> list[bytes]:
        cursor, found = b"0", []
        while True:
            cursor, some = await self._link.command(command, self._link.base + name, cursor, "COUNT", STEP)
            found += some
            if cursor == b"0":
                return found

    async def _clean(self, group: str, number: int) -> int:
        cursor, count = b"0", 0
        while True:
            cursor, deleted = await self._link.call(layout.CLEAN, group, cursor, number)
            count += int(deleted)
            if cursor == b"0":
                return count

    async def deny(self, keys: Iterable[Key]) -> None:
        """Let the entries under these keys count as never confirmed, for all gateways."""
        for some in _steps(keys):
            number = await self._link.call(layout.DENY, msgspec.msgpack.encode(some), *some)
            self._link.seen.note_own(number)

    async def drop(self, keys: Sequence[Key]) -> None:
        """Delete the entries under these keys, also in the memory of other gateways."""
        number = await self._link.call(layout.DROP, msgspec.msgpack.encode(list(keys)), *keys)
        self._link.seen.note_own(number)

    async def confirm(self, key: Key, body_id: bytes, confirmed: float) -> None:
        """Set when the entry was confirmed (monotonic), if it has this body; b"": whatever it has."""
        await self._link.call(layout.CONFIRM, key, body_id, self._link.time.shared(confirmed))

    async def touch(self, bodies: Iterable[bytes]) -> None:
        """Note that these bodies were used; learn how full Redis is."""
        for some in _steps(bodies) or [[]]:
            self.bytes, self.entries = await self._link.call(layout.TOUCH, *some)

    async def protect(self) -> None:
        """Of the bodies that would be evicted first, keep those that this gateway has in memory."""
        found = await self._link.command("ZRANGE", self._link.base + "lru", 0, CANDIDATES - 1)
        await self.touch([body for body in found if self._is_recent(body)])

    async def lose(self, body_id: bytes, token: str) -> bool:
        """Delete a body that was found damaged, with its entries; return whether it was still there."""
        return bool(await self._link.call(layout.LOSE, body_id, token))

    async def make_some_room(self) -> None:
        """Redis itself is full, below our limit: make a sixteenth of what is there free."""
        self.bytes, self.entries = await self._link.call(layout.TOUCH)
        await self.make_room(self.limit - self.bytes + max(LEAST_ROOM, self.bytes // 16))


def _mark(selection: Selection) -> str:
    scope, query = selection
    return layout.mark(_scope(scope) if scope is not None else None, query)


def _scope(scope: str) -> str:
    return digest(scope.encode())[:16].hex()


def _stored(found: Sequence[Any]) -> StoredBody:
    body_digest, size, token, count, data = found
    return StoredBody(body_digest, int(size), token.decode(), int(count), data, 0)


def _steps(values: Iterable[bytes]) -> list[list[bytes]]:
    values = list(values)
    return [values[first : first + STEP] for first in range(0, len(values), STEP)]
