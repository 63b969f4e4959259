"""The store that several gateways share: Redis, with memory (and temporary files) of this gateway in front.

Memory serves while it is known that no announcement was missed, and alone while Redis is down. What was invalidated
meanwhile is passed on to Redis before it is used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.model import Clock, Entry, Key, TierStats
from gateway.store.background import run_forever
from gateway.store.memory import MemoryStore
from gateway.store.protocols import Fence
from gateway.store.redis.failures import FullError, RefusedError, UnavailableError
from gateway.store.redis.invalidations import Invalidations
from gateway.store.redis.link import Link
from gateway.store.redis.pieces import DamagedError
from gateway.store.redis.tier import SharedTier, Terms
from gateway.store.redis.times import monotonic
from gateway.store.redis.transfer import StoredBody, Transfer
from gateway.store.verification import Complaints

FLUSH_SECONDS: Final = 1.0
PROTECT_FLUSHES: Final = 5
MOST_CHANGED: Final = 10_000

KEYS: Final = msgspec.msgpack.Decoder(list[bytes])

GIVEN_UP: Final = (UnavailableError, RefusedError, TimeoutError, OSError)


class RedisStore:
    """`disk_bytes` bounds what all gateways have in Redis; bodies over `max_entry_bytes` stay in the gateway that got
    them.
    """

    def __init__(self, link: Link, memory: MemoryStore, *, disk_bytes: int, max_entry_bytes: int, clock: Clock) -> None:
        self.link = link
        self.sweepers: list[Callable[[], Awaitable[None]]] = []
        self._memory = memory
        self._max_entry = min(max_entry_bytes, disk_bytes)
        self._tier = SharedTier(link, disk_bytes, memory.has_body)
        self._transfer = Transfer(link, memory.begin_spool)
        self._complaints = Complaints(clock)
        self._missed = Invalidations()
        self._fetches: Flights[Entry | None] = Flights()
        self._reads: Flights[Body | None] = Flights()
        self._changed: set[Key] = set()  # of those that are being fetched: what comes may be old
        self._deletions = 0
        self._used: dict[bytes, None] = {}
        self._flusher: asyncio.Task[None] | None = None
        self.peek_body = memory.peek_body
        self.peek_gzip = memory.peek_gzip
        self.put_gzip = memory.put_gzip
        self.begin_spool = memory.begin_spool
        self._listen()

    def _listen(self) -> None:
        link = self.link
        link.seen.on_gap.append(self._drop_memory)
        link.on_up.append(self._catch_up)
        link.subscribe("stored", lambda payload: self._heard_stored(KEYS.decode(payload)))
        link.subscribe("denied", lambda payload: self._heard_denied(KEYS.decode(payload)))
        link.subscribe("purged", lambda payload: self._heard_purged(*msgspec.msgpack.decode(payload)))

    # -- the fast path

    def peek(self, key: Key) -> Entry | None:
        """See the protocol; None also while memory may have missed something."""
        if monotonic() >= self.link.good_until:
            return None
        entry = self._memory.peek(key)
        if entry is not None:
            self._used[entry.body_id] = None
        return entry

    def holds(self, key: Key, entry: Entry) -> bool:
        """See the protocol; as `peek`."""
        return monotonic() < self.link.good_until and self._memory.holds(key, entry)

    # -- Store

    @property
    def ready(self) -> bool:
        """Whether Redis is there; if not, memory serves alone."""
        return self.link.up

    async def usable(self) -> None:
        """Wait until Redis is there."""
        await self.link.usable.wait()

    async def open(self) -> None:
        """See the protocol. A Redis that is not reachable is looked for in the background."""
        await self._memory.open()
        await self.link.open()
        self._flusher = asyncio.create_task(run_forever(self._flush_later))

    async def close(self) -> None:
        """See the protocol."""
        flusher, self._flusher = self._flusher, None
        try:
            if flusher is not None:
                flusher.cancel()
                await asyncio.wait({flusher})
                await self.flush()
            await self._fetches.aclose()
            await self._reads.aclose()
        finally:
            await self.link.close()
            await self._memory.close()

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        entry = self.peek(key)
        if entry is None and self.ready:
            entry, _ = await self._fetches.share(key, lambda: self._fetch(key))
        return entry

    async def _fetch(self, key: Key) -> Entry | None:
        deletions = self._deletions
        self._changed.discard(key)
        try:
            found = await self._tier.fetch(key)
            if found is None:
                return None
            entry, stored = found
            body = self._memory.peek_body(entry) or await self._download(entry.body_id, stored)
        except GIVEN_UP:
            return self.peek(key)  # Redis went down just now: memory serves alone
        if body is None:
            return None
        if deletions == self._deletions and key not in self._changed:
            await self._copy_to_memory(key, entry, body)
        return entry

    async def _copy_to_memory(self, key: Key, entry: Entry, body: Body) -> None:
        if body.spool is None:
            self._memory.insert([key], entry, body)
        else:  # a file that memory does not own yet
            await self._memory.put([key], entry, body)

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        self._used[entry.body_id] = None
        body = self._memory.peek_body(entry)
        if body is None and self.ready:
            body, _ = await self._reads.share(entry.body_id, lambda: self._read(entry.body_id))
        return body if body is not None and entry.size in (0, body.size) else None

    async def _read(self, body_id: bytes) -> Body | None:
        try:
            stored = await self._tier.body(body_id)
            return await self._download(body_id, stored) if stored is not None else None
        except GIVEN_UP:
            return None

    async def _download(self, body_id: bytes, stored: StoredBody) -> Body | None:
        try:
            return await self._transfer.download(stored)
        except DamagedError as error:
            if await self._tier.lose(body_id, stored.token):  # otherwise it was replaced or evicted meanwhile
                self._complaints.add("", str(error))
            return None

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body, fence: Fence | None = None) -> Body:
        """See the protocol. It is in Redis when this returns, so that others who hear of it find it."""
        entry = msgspec.structs.replace(entry, size=body.size)
        terms = Terms(keys, entry, (self.link.seen.epoch, self.link.seen.number), fence)
        if body.path is None:
            self._memory.insert(keys, entry, body)
        else:
            body = await self._memory.put(keys, entry, body)
        if not self.ready or body.size > self._max_entry:
            await self._invalidate(keys, self._tier.drop)
        else:
            await self._share(terms, body)
        return body

    async def _share(self, terms: Terms, body: Body) -> None:
        try:
            try:
                is_allowed = await self._tier.put(terms, await self._transfer.upload(body))
            except FullError:
                await self._tier.make_some_room()
                is_allowed = await self._tier.put(terms, await self._transfer.upload(body))
        except GIVEN_UP:  # it may be there, or something older
            await self._invalidate(terms.keys, self._tier.drop)
            return
        if not is_allowed:
            self._memory.remove_keys(terms.keys)

    async def _invalidate(self, keys: Sequence[Key], how: Callable[[Sequence[Key]], Awaitable[None]]) -> None:
        try:
            await how(keys)
        except GIVEN_UP:
            self._missed.deny(keys)

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol; of other gateways' memory, only those that it denies are changed."""
        known = self._memory.peek(key)
        self._memory.set_confirmed(key, confirmed)
        if confirmed == -math.inf:
            await self._invalidate([key], self._tier.deny)
            self._heard_denied([key])  # a fetch that came before it may have brought it here meanwhile
            return
        with contextlib.suppress(*GIVEN_UP):
            await self._tier.confirm(key, known.body_id if known is not None else b"", confirmed)

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol; in the memory of all gateways."""
        self._deletions += 1
        selection, count = (scope, query_id), self._memory.remove(scope, query_id)
        try:
            number = await self._tier.purge(selection)
            return max(count, await self._tier.clean(selection, number))
        except GIVEN_UP:
            self._missed.purge(selection)
            return count
        finally:
            self._heard_purged(scope, query_id)  # a fetch that came before it may have brought it here meanwhile

    async def queries(self, scope: str) -> set[int] | None:
        """See the protocol."""
        memory = await self._memory.queries(scope)
        try:
            shared = await self._tier.queries(scope) if self.ready else None
        except GIVEN_UP:
            return None
        return None if memory is None or shared is None else memory | shared

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        tier = self._tier
        shared = TierStats("redis", tier.bytes, tier.entries, tier.evictions, tier.limit, up=self.ready)
        return [*self._memory.stats(), shared]

    # -- what other gateways have done

    def _heard_stored(self, keys: list[bytes]) -> None:
        self._memory.remove_keys(keys)
        self._changed.update(keys)
        if not len(self._fetches):
            self._changed.clear()
        elif len(self._changed) > MOST_CHANGED:
            self._changed.clear()
            self._deletions += 1

    def _heard_denied(self, keys: list[bytes]) -> None:
        for key in keys:
            self._memory.set_confirmed(key, -math.inf)
        self._changed.update(keys if len(self._fetches) else ())

    def _heard_purged(self, scope: str | None, query_id: int | None) -> None:
        self._deletions += 1
        self._memory.remove(scope, query_id)

    def _drop_memory(self) -> None:
        self._deletions += 1
        self._memory.remove(None, None)

    async def _catch_up(self) -> None:
        """Pass on to Redis what it missed, before it is used again. Raises UnavailableError."""
        await self._missed.pass_on(self._tier.purge, self._tier.deny)
        await self._tier.touch([])

    # -- in the background

    async def _flush_later(self) -> None:
        for _ in range(PROTECT_FLUSHES):
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
        with contextlib.suppress(*GIVEN_UP):
            await self._tier.protect()
        for sweep in self.sweepers:
            await sweep()

    async def flush(self) -> None:
        """Write which bodies were used."""
        used, self._used = self._used, {}
        with contextlib.suppress(*GIVEN_UP):
            await self._tier.touch(used)

    async def sweep(self) -> None:
        """Remove what is over in memory; write what was used."""
        await self._memory.sweep()
        await self.flush()
