"""Memory in front of a store that lasts: only the order in which they are asked and told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from gateway.errors import StoreError
from gateway.model import Body, Entry, Key, TierStats
from gateway.store.memory import MemoryStore
from gateway.store.protocols import Store


class BackingStore(Store, Protocol):
    """What a store must offer beside `Store` to stand below memory."""

    @property
    def ready(self) -> bool:
        """Whether it does its work, rather than behaving as empty."""

    async def failed(self) -> StoreError:
        """Wait until it is certain that it cannot be had (locked past the deadline); never returns if all is well."""

    def spool_path(self) -> Path:
        """Return a fresh path for the upstream client to write a large body to."""

    def watch(self, on_drop: Callable[[bytes | None], None], is_recent: Callable[[bytes], bool]) -> None:
        """Call `on_drop` with the id of a body that goes (None: all); spare bodies that `is_recent` knows."""


class LayeredStore:
    """Looks in memory, else below, and then keeps what it found in memory too."""

    def __init__(self, memory: MemoryStore, below: BackingStore) -> None:
        self._memory = memory
        self._below = below
        self._forgets = 0
        self.peek = memory.peek
        self.holds = memory.holds
        self.peek_body = memory.peek_body
        self.peek_gzip = memory.peek_gzip
        self.put_gzip = memory.put_gzip
        self.failed = below.failed
        self.spool_path = below.spool_path
        below.watch(memory.remove_body, memory.has_body)

    @property
    def ready(self) -> bool:
        """Whether the store below does its work; if not, memory serves alone."""
        return self._below.ready

    async def open(self) -> None:
        """See the protocol."""
        await self._memory.open()
        await self._below.open()

    async def close(self) -> None:
        """See the protocol."""
        try:
            await self._below.close()
        finally:
            await self._memory.close()

    async def get(self, key: Key) -> Entry | None:
        """See the protocol."""
        entry = self._memory.peek(key)
        if entry is not None:
            return entry
        forgets = self._forgets
        entry = await self._below.get(key)
        if entry is None:
            return None
        body = await self._below.read(entry)
        if body is None:
            return None
        if forgets == self._forgets:  # else it may be what was just forgotten
            return self._promote(key, entry, body)
        return entry

    def _promote(self, key: Key, entry: Entry, body: Body) -> Entry:
        newer = self._memory.peek(key)  # kept while we looked below
        if newer is None:
            self._memory.insert([key], entry, body)
        return newer or entry

    async def read(self, entry: Entry) -> Body | None:
        """See the protocol."""
        return self._memory.peek_body(entry) or await self._below.read(entry)

    async def put(self, keys: Sequence[Key], entry: Entry, body: Body) -> Body:
        """See the protocol."""
        forgets = self._forgets
        if body.path is None:
            self._memory.insert(keys, entry, body)
            return await self._below.put(keys, entry, body)
        lasting = await self._below.put(keys, entry, body)
        kept = await self._below.read(entry)  # else it was not kept; memory only points to files
        if kept is not None and forgets == self._forgets:
            self._memory.insert(keys, entry, kept)
        return lasting

    async def confirm(self, key: Key, confirmed: float) -> None:
        """See the protocol."""
        self._memory.set_confirmed(key, confirmed)
        await self._below.confirm(key, confirmed)

    async def delete(self, *, scope: str | None = None, query_id: int | None = None) -> int:
        """See the protocol."""
        self._forgets += 1
        try:
            held = self._memory.remove(scope, query_id)
            return max(held, await self._below.delete(scope=scope, query_id=query_id))
        finally:
            self._forgets += 1

    def stats(self) -> list[TierStats]:
        """See the protocol."""
        return [*self._memory.stats(), *self._below.stats()]
