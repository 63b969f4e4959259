"""Memory in front of a persistent store: in which order the two are read and written, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.body import Body
from gateway.concurrency.spool import BeginSpool
from gateway.model import Entry, Key, TierStats
from gateway.store.memory import MemoryStore
from gateway.store.protocols import Fence, Store


class BackingStore(Store, Protocol):
    """What a store must offer beyond `Store` to stand behind memory."""

    @property
    def begin_spool(self) -> BeginSpool:
        """See `FrontStore`."""

    def watch(self, on_drop: Callable[[bytes | None], None], is_recent: Callable[[bytes], bool]) -> None:
        """Call `on_drop` with the id of each deleted body (None: all); evict bodies that `is_recent` accepts last."""


class LayeredStore:
    """Looks in memory first, then in the backing store; what it finds there is copied to memory."""

    def __init__(self, memory: MemoryStore, backing: BackingStore) -> None:
        self._memory = memory
        self.backing = backing
        self._deletions = 0
        self.peek = memory.peek
        self.holds = memory.holds
        self.peek_body = memory.peek_body
        self.peek_gzip = memory.peek_gzip
        self.put_gzip = memory.put_gzip
        self.begin_spool = backing.begin_spool
        self.usable = backing.usable
        backing.watch(memory.remove_body, memory.has_body)

    @property
    def ready(self) -> bool:
        """Whether the backing store works; if not, memory serves alone."""
        return self.backing.ready

    async def open(self) -> None:
        """See the protocol."""
        await self._memory.open()
        await self.backing.open()

    async def close(self) -> None:
        """See the protocol."""
        try:
            await self.backing.close()
        finally:
            await self._memory.close()

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        entry = self._memory.peek(key)
        if entry is not None:
            return entry
        deletions = self._deletions
        entry = await self.backing.get(key)
        if entry is None:
            return None
        body = await self.backing.read(entry)
        if body is None:
            return None
        if deletions == self._deletions:  # otherwise it may be what has just been deleted
            return self._promote(key, entry, body)
        return entry

    def _promote(self, key: Key, entry: Entry, body: Body) -> Entry:
        newer = self._memory.peek(key)  # stored while we read the backing store
        if newer is None:
            self._memory.insert([key], entry, body)
        return newer or entry

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        return self._memory.peek_body(entry) or await self.backing.read(entry)

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body, fence: Fence | None = None) -> Body:
        """See the protocol."""
        deletions = self._deletions
        if body.path is None:
            self._memory.insert(keys, entry, body)
            return await self.backing.put(keys, entry, body, fence)
        final = await self.backing.put(keys, entry, body, fence)
        stored = await self.backing.read(entry)  # None: it was not stored; memory holds only the path of a file
        if stored is not None and deletions == self._deletions:
            self._memory.insert(keys, entry, stored)
        for key in keys if stored is None else ():  # what is stored under them is not the newest any more
            self._memory.set_confirmed(key, -math.inf)
        return final

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol."""
        self._memory.set_confirmed(key, confirmed)
        await self.backing.confirm(key, confirmed)

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol."""
        self._deletions += 1
        try:
            count = self._memory.remove(scope, query_id)
            return max(count, await self.backing.delete(scope=scope, query_id=query_id))
        finally:
            self._deletions += 1

    async def queries(self, scope: str) -> set[int] | None:
        """See the protocol."""
        memory, backing = await self._memory.queries(scope), await self.backing.queries(scope)
        return None if memory is None or backing is None else memory | backing

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        return [*self._memory.stats(), *self.backing.stats()]
