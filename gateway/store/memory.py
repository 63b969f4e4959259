"""The store in memory: what is used most recently, bounded by bytes. Front of every other store, or a store of its own.

Nothing here waits; the coroutines exist for the protocol, the hit path calls `peek` and `peek_body`.
"""

from __future__ import annotations

import asyncio
import filecmp
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.errors import StoreError
from gateway.model import Body, Clock, Entry, Key, TierStats
from gateway.store.background import run_forever
from gateway.store.body_files import BodyFiles
from gateway.store.lru import BODY_OVERHEAD, ENTRY_OVERHEAD, CachedBody, LruCache, cost_of

BRIEF_SECONDS = 60.0
"""How long a body over the entry limit is kept: long enough for those who waited for it."""

TICK_SECONDS = 5.0

LARGEST_SHARE = 8
"""Bytes of more than a share of 1/8 of the limit would push out too much else."""


class MemoryStore:
    """LRU over bodies; keys and their entries go with the body they lead to.

    Files: in front of another store (`spool=False`) a body with a `path` belongs to the store below and only its
    entry counts here. As a store of its own (`spool=True`) it has a temporary directory for them, removed on
    close; they count against the same limit as the rest, one of more than half of it as half.
    """

    def __init__(
        self, limit_bytes: int, clock: Clock, *, max_entry_bytes: int | None = None, spool: bool = False
    ) -> None:
        self._limit = limit_bytes
        self._clock = clock
        self._max_entry = limit_bytes if max_entry_bytes is None else max_entry_bytes
        self._spool = spool
        self._files: BodyFiles | None = None
        self._recent = LruCache(limit_bytes, self._evicted)
        self._by_key: dict[Key, CachedBody] = {}
        self._groups: dict[tuple[str, int], set[Key]] = {}
        self._brief: set[CachedBody] = set()
        self._evictions = 0
        self._house: asyncio.Task[None] | None = None

    # -- the hit path

    def peek(self, key: Key) -> Entry | None:
        """As `get`, at once."""
        held = self._by_key.get(key)
        if held is None:
            return None
        if held.expires is not None and held.expires <= self._clock.monotonic():
            self._drop(held)
            return None
        self._recent[held.body_id]  # touches it
        return held.entries[key]

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry; touches nothing."""
        held = self._by_key.get(key)
        if held is None or held.entries[key] is not entry:
            return False
        return held.expires is None or held.expires > self._clock.monotonic()

    def peek_body(self, entry: Entry) -> Body | None:
        """As `read`, at once."""
        held = self._recent.get(entry.body_id)
        if held is None or (entry.size and entry.size != held.body.size):
            return None
        return held.body

    def peek_gzip(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of `body`, None if none was kept or the store has other bytes under `entry`."""
        held = self._recent.get(entry.body_id)
        return held.gzip if held is not None and held.body == body else None

    def put_gzip(self, entry: Entry, body: Body, form: Body) -> None:
        """Keep the gzip form of `body` as long as the body itself; nothing is kept where that is here no more."""
        held = self._recent.get(entry.body_id)
        if held is None or held.body != body or cost_of(held) + form.size > self._limit:
            return
        self._recent.pop(held.body_id)  # a growing value is put in anew: the cache must not evict it for itself
        held.gzip = form
        self._recent[held.body_id] = held

    def has_body(self, body_id: bytes) -> bool:
        """Whether its bytes (or the way to them) are here; touches nothing."""
        return body_id in self._recent

    def body_ids(self) -> list[bytes]:
        """Every body that is here."""
        return list(self._recent)

    # -- Store

    ready = True

    async def open(self) -> None:
        """Make the temporary directory, for a store of its own."""
        if self._spool and self._files is None:
            try:
                directory = await asyncio.to_thread(tempfile.mkdtemp, prefix="redash-gateway-")
            except OSError as error:
                raise StoreError(f"no temporary directory for large results: {error}") from error
            self._files = BodyFiles(Path(directory), self._clock)
            self._house = asyncio.create_task(run_forever(self._keep_house))

    async def close(self) -> None:
        """Forget everything and remove the files."""
        house, self._house = self._house, None
        if house is not None:
            house.cancel()
            await asyncio.wait({house})
        self._recent.clear()
        self._by_key.clear()
        self._groups.clear()
        self._brief.clear()
        if self._files is not None:
            files, self._files = self._files, None
            await asyncio.to_thread(files.remove_all)

    async def failed(self) -> StoreError:
        """Never returns: memory does not fail."""
        never: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()
        return await never

    def spool_path(self) -> Path:
        """Return a fresh path for the upstream client to write a large body to."""
        if self._files is None:
            raise StoreError("the store is not open")
        return self._files.spool_path()

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        return self.peek(key)

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        return self.peek_body(entry)

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body) -> Body:
        """See the protocol."""
        if body.path is not None and self._files is not None:
            try:
                body = await self._taken_over(self._files, entry.body_id, body)
            except OSError:
                self._refuse(keys, body)
                return body
        self.insert(keys, entry, body)
        return body

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol."""
        self.set_confirmed(key, confirmed)

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol."""
        return self.remove(scope, query_id)

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        used = int(self._recent.currsize)
        return [TierStats("memory", used, len(self._by_key), self._evictions, up=True)]

    # -- the same, at once

    def insert(self, keys: Sequence[Key], entry: Entry, body: Body) -> bool:
        """Keep it if it fits; returns whether it did."""
        entry = msgspec.structs.replace(entry, size=body.size)
        if not self._fits(body, len(keys)):
            self._refuse(keys, body)
            return False
        held = self._holding(entry.body_id, body, len(keys))
        for key in keys:
            self._unmap(key, keep=held)
        held.entries.update(dict.fromkeys(keys, entry))
        self._recent.pop(held.body_id, None)  # a growing value is put in anew: the cache must not evict it for itself
        self._recent[held.body_id] = held
        for key in keys:
            self._by_key[key] = held
        self._groups.setdefault((entry.scope, entry.query_id), set()).update(keys)
        return True

    def set_confirmed(self, key: Key, confirmed: float) -> None:
        """As `confirm`, at once."""
        held = self._by_key.get(key)
        if held is not None:
            held.entries[key] = msgspec.structs.replace(held.entries[key], confirmed=confirmed)

    def remove(self, scope: str | None, query_id: int | None) -> int:
        """As `delete`, at once."""
        keys = [key for group in self._matching(scope, query_id) for key in self._groups[group]]
        for key in keys:
            self._unmap(key)
        return len(keys)

    def remove_body(self, body_id: bytes | None) -> None:
        """Drop the entries that lead to a file of the store below which is about to go; None: all such files."""
        for held in set(self._by_key.values()) if body_id is None else (self._recent.get(body_id),):
            if held is not None and held.body.path is not None:
                self._drop(held)

    async def sweep(self) -> None:
        """Drop what was kept briefly, unlink what was dropped."""
        now = self._clock.monotonic()
        for held in [held for held in self._brief if held.expires is None or held.expires <= now]:
            self._drop(held)
        if self._files is not None:
            await self._files.empty_trash()

    # -- inside

    async def _keep_house(self) -> None:
        await asyncio.sleep(TICK_SECONDS)
        await self.sweep()

    async def _taken_over(self, files: BodyFiles, body_id: bytes, body: Body) -> Body:
        """Give a spool file its lasting name; or return what has the same bytes, so that older keys keep their body."""
        assert body.path is not None  # noqa: S101 - it is a file
        held = self._recent.get(body_id)
        old = held.body if held is not None and held.body.size == body.size else None
        if held is not None and old is not None and old.path is not None:
            same = await asyncio.to_thread(filecmp.cmp, old.path, body.path, shallow=False)
            held = self._recent.get(body_id)
            if same and held is not None and held.body is old:
                files.discard(body.path)
                return old
        return Body(size=body.size, path=await asyncio.to_thread(files.adopt, body.path, body_id))

    def _fits(self, body: Body, keys: int) -> bool:
        overhead = BODY_OVERHEAD + ENTRY_OVERHEAD * keys
        if body.path is not None:
            return overhead + self._file_cost(body) <= self._limit
        return body.size + overhead <= self._limit // LARGEST_SHARE

    def _file_cost(self, body: Body) -> int:
        return min(body.size, self._limit // 2) if self._spool else 0

    def _refuse(self, keys: Sequence[Key], body: Body) -> None:
        for key in keys:  # what they led to before is no longer the newest
            self._unmap(key)
        if body.path is not None and self._files is not None:
            self._files.discard(body.path)

    def _holding(self, body_id: bytes, body: Body, keys: int) -> CachedBody:
        """Return what already holds these bytes and has room for so many more keys, else a new holder."""
        old = self._recent.get(body_id)
        if old is not None:
            if old.body == body and cost_of(old) + keys * ENTRY_OVERHEAD <= self._limit:
                return old
            self._drop(old)
        held = CachedBody(body_id, body, self._file_cost(body) if body.path else body.size)
        if body.size > self._max_entry:
            held.expires = self._clock.monotonic() + BRIEF_SECONDS
            self._brief.add(held)
        return held

    def _matching(self, scope: str | None, query_id: int | None) -> Iterator[tuple[str, int]]:
        if scope is not None and query_id is not None:
            return iter([(scope, query_id)] if (scope, query_id) in self._groups else [])
        return iter([g for g in self._groups if scope in (None, g[0]) and query_id in (None, g[1])])

    def _unmap(self, key: Key, keep: CachedBody | None = None) -> None:
        held = self._by_key.get(key)
        if held is not None:
            self._unlink_key(key, held)
            if not held.entries and held is not keep:
                self._drop(held)

    def _unlink_key(self, key: Key, held: CachedBody) -> None:
        entry = held.entries.pop(key)
        del self._by_key[key]
        group = (entry.scope, entry.query_id)
        self._groups[group].discard(key)
        if not self._groups[group]:
            del self._groups[group]

    def _drop(self, held: CachedBody) -> None:
        self._recent.pop(held.body_id, None)
        self._gone(held)

    def _evicted(self, held: CachedBody) -> None:
        self._evictions += 1
        self._gone(held)

    def _gone(self, held: CachedBody) -> None:
        self._brief.discard(held)
        for key in list(held.entries):
            self._unlink_key(key, held)
        if held.body.path is not None and self._files is not None:
            self._files.discard(held.body.path)
