"""The store in memory: the most recently used bodies, bounded by bytes. Used alone, or in front of another store.

Only work on files awaits; the fast path calls `peek` and `peek_body`.
"""

from __future__ import annotations

import asyncio
import filecmp
from collections.abc import Iterator, Sequence

import msgspec

from gateway.body import Body
from gateway.concurrency.spool import Spool
from gateway.errors import StoreError
from gateway.model import Clock, Entry, Key, TierStats
from gateway.store.background import run_forever
from gateway.store.body_files import BodyFiles
from gateway.store.lru import ENTRY_OVERHEAD, OVERSIZE_SECONDS, CachedBody, LruCache, cost_of
from gateway.store.temporary import TemporaryFiles

SWEEP_SECONDS = 5.0


class MemoryStore:
    """An LRU cache of bodies; keys and their entries are removed with their body.

    Files: in front of another store, a body with a `path` belongs to that store and only its entry counts here. Used
    alone, this store has temporary files for them. They count against the same limit; a file larger than half of it
    counts as half. They make way for a new one that the directory has no room for.
    """

    def __init__(
        self, limit_bytes: int, clock: Clock, *, max_entry_bytes: int, temporary: TemporaryFiles | None = None
    ) -> None:
        self._limit = limit_bytes
        self._clock = clock
        self._max_entry = max_entry_bytes
        self._temporary = temporary
        self._cache = LruCache(limit_bytes, self._evicted)
        if temporary is not None:
            temporary.evict_file = self._cache.evict_file
        self._by_key: dict[Key, CachedBody] = {}
        # Keys in a dict, not in a set: the garbage collector looks through every set, but not through such a dict.
        self._by_query: dict[tuple[str, int], dict[Key, None]] = {}
        self._oversize: set[CachedBody] = set()
        self._evictions = 0
        self._sweeper: asyncio.Task[None] | None = None

    # -- the fast path

    def peek(self, key: Key) -> Entry | None:
        """As `get`, without awaiting."""
        cached = self._by_key.get(key)
        if cached is None:
            return None
        if self._is_over(cached):
            self._drop(cached)
            return None
        self._cache[cached.body_id]  # marks it as used
        return cached.entries[key]

    def holds(self, key: Key, entry: Entry) -> bool:
        """Whether `peek` would return this very entry; does not mark it as used."""
        cached = self._by_key.get(key)
        return cached is not None and cached.entries[key] is entry and not self._is_over(cached)

    def _is_over(self, cached: CachedBody) -> bool:
        """Whether its time is over, or its file is not there any more."""
        over = cached.expires is not None and cached.expires <= self._clock.monotonic()
        return over or not cached.body.is_there()

    def peek_body(self, entry: Entry) -> Body | None:
        """As `read`, without awaiting."""
        cached = self._cache.get(entry.body_id)
        if cached is None or (entry.size and entry.size != cached.body.size):
            return None
        return cached.body

    def peek_gzip(self, entry: Entry, body: Body) -> Body | None:
        """Return the gzip form of `body`; None if there is none or the store has other bytes under `entry`."""
        cached = self._cache.get(entry.body_id)
        return cached.gzip if cached is not None and cached.body == body else None

    def put_gzip(self, entry: Entry, body: Body, form: Body) -> None:
        """Store the gzip form of `body` for as long as the body; nothing if the body is no longer stored."""
        cached = self._cache.get(entry.body_id)
        if cached is None or cached.body != body or cost_of(cached) + form.size > self._limit:
            return
        self._cache.pop(cached.body_id)  # reinserted: a growing value must not be evicted to make room for itself
        cached.gzip = form
        self._cache[cached.body_id] = cached

    def has_body(self, body_id: bytes) -> bool:
        """Whether its bytes (or the path of its file) are stored; does not mark it as used."""
        return body_id in self._cache

    # -- Store

    ready = True

    async def usable(self) -> None:
        """Return at once: memory always works."""

    async def open(self) -> None:
        """Make the temporary directory, if the store is used alone."""
        if self._temporary is not None and self._sweeper is None:
            await self._temporary.open()
            self._sweeper = asyncio.create_task(run_forever(self._sweep_later))

    async def close(self) -> None:
        """Remove everything, also the files."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait({sweeper})
        self._cache.clear()
        self._by_key.clear()
        self._by_query.clear()
        self._oversize.clear()
        if self._temporary is not None:
            await self._temporary.close()

    async def begin_spool(self, size: int | None) -> Spool:
        """Make a spool for a large body that will be put here."""
        if self._temporary is None:
            raise StoreError("this store has no files")
        return await self._temporary.begin(size)

    @property
    def _files(self) -> BodyFiles | None:
        return self._temporary.files if self._temporary is not None else None

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        return self.peek(key)

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        return self.peek_body(entry)

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body, fence: object = None) -> Body:
        """See the protocol."""
        if body.path is not None and self._files is not None:
            try:
                body = await self._adopt(self._files, entry.body_id, body)
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

    async def queries(self, scope: str) -> set[int] | None:
        """See the protocol."""
        return {query_id for _, query_id in self._matching(scope, None)}

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        used, up = int(self._cache.currsize), self._temporary is None or self._temporary.up
        return [TierStats("memory", used, len(self._by_key), self._evictions, self._limit, up=up)]

    # -- the same without awaiting

    def insert(self, keys: Sequence[Key], entry: Entry, body: Body) -> bool:
        """Store it if it fits; return whether it did."""
        entry = msgspec.structs.replace(entry, size=body.size)
        if not self._cache.fits(body, self._cost(body), len(keys)):
            self._refuse(keys, body)
            return False
        cached = self._cached_body(entry.body_id, body, len(keys))
        for key in keys:
            self._remove_key(key, spare=cached)
        cached.entries.update(dict.fromkeys(keys, entry))
        self._cache.pop(cached.body_id, None)  # reinserted, as in `put_gzip`
        self._cache[cached.body_id] = cached
        for key in keys:
            self._by_key[key] = cached
        self._by_query.setdefault((entry.scope, entry.query_id), {}).update(dict.fromkeys(keys))
        return True

    def set_confirmed(self, key: Key, confirmed: float) -> None:
        """As `confirm`, without awaiting."""
        cached = self._by_key.get(key)
        if cached is not None:
            cached.entries[key] = msgspec.structs.replace(cached.entries[key], confirmed=confirmed)

    def remove(self, scope: str | None, query_id: int | None) -> int:
        """As `delete`, without awaiting."""
        keys = [key for group in self._matching(scope, query_id) for key in self._by_query[group]]
        self.remove_keys(keys)
        return len(keys)

    def remove_keys(self, keys: Sequence[Key]) -> None:
        """Remove the entries under these keys."""
        for key in keys:
            self._remove_key(key)

    def remove_body(self, body_id: bytes | None) -> None:
        """Remove the entries of a file that the backing store is about to delete; None: of all files."""
        for cached in set(self._by_key.values()) if body_id is None else (self._cache.get(body_id),):
            if cached is not None and cached.body.path is not None:
                self._drop(cached)

    async def sweep(self) -> None:
        """Remove expired oversize bodies; unlink discarded files."""
        now = self._clock.monotonic()
        for cached in [cached for cached in self._oversize if cached.expires is None or cached.expires <= now]:
            self._drop(cached)
        if self._temporary is not None:
            await self._temporary.sweep()

    # -- inside

    async def _sweep_later(self) -> None:
        await asyncio.sleep(SWEEP_SECONDS)
        await self.sweep()

    async def _adopt(self, files: BodyFiles, body_id: bytes, body: Body) -> Body:
        """Give a spool file its final name, or return the stored body with the same bytes: older keys keep it."""
        assert body.path is not None  # noqa: S101 - it is a file
        cached = self._cache.get(body_id)
        old = cached.body if cached is not None and cached.body.size == body.size else None
        if cached is not None and old is not None and old.path is not None:
            same = await asyncio.to_thread(filecmp.cmp, old.path, body.path, shallow=False)
            cached = self._cache.get(body_id)
            if same and cached is not None and cached.body is old:
                files.discard(body.path)
                return old
        return await asyncio.to_thread(files.adopt, body.path, body_id, body.size)

    def _cost(self, body: Body) -> int:
        if body.path is None:
            return body.size
        return min(body.size, self._limit // 2) if self._temporary is not None else 0

    def _refuse(self, keys: Sequence[Key], body: Body) -> None:
        self.remove_keys(keys)  # older entries are no longer the newest
        if body.path is not None and self._files is not None:
            self._files.discard(body.path)

    def _cached_body(self, body_id: bytes, body: Body, keys: int) -> CachedBody:
        """Return what already has these bytes and room for `keys` more keys, otherwise a new one."""
        old = self._cache.get(body_id)
        if old is not None:
            if old.body == body and cost_of(old) + keys * ENTRY_OVERHEAD <= self._limit:
                return old
            self._drop(old)
        cached = CachedBody(body_id, body, self._cost(body))
        if body.size > self._max_entry:
            cached.expires = self._clock.monotonic() + OVERSIZE_SECONDS
            self._oversize.add(cached)
        return cached

    def _matching(self, scope: str | None, query_id: int | None) -> Iterator[tuple[str, int]]:
        if scope is not None and query_id is not None:
            return iter([(scope, query_id)] if (scope, query_id) in self._by_query else [])
        return iter([g for g in self._by_query if scope in (None, g[0]) and query_id in (None, g[1])])

    def _remove_key(self, key: Key, spare: CachedBody | None = None) -> None:
        cached = self._by_key.get(key)
        if cached is not None:
            self._unlink_key(key, cached)
            if not cached.entries and cached is not spare:
                self._drop(cached)

    def _unlink_key(self, key: Key, cached: CachedBody) -> None:
        entry = cached.entries.pop(key)
        del self._by_key[key]
        group = (entry.scope, entry.query_id)
        self._by_query[group].pop(key, None)
        if not self._by_query[group]:
            del self._by_query[group]

    def _drop(self, cached: CachedBody) -> None:
        self._cache.pop(cached.body_id, None)
        self._clean_up(cached)

    def _evicted(self, cached: CachedBody) -> None:
        self._evictions += 1
        self._clean_up(cached)

    def _clean_up(self, cached: CachedBody) -> None:
        self._oversize.discard(cached)
        for key in list(cached.entries):
            self._unlink_key(key, cached)
        if cached.body.path is not None and self._files is not None:
            self._files.discard(cached.body.path)
