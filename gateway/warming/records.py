"""What refresh ahead keeps in the store, and which of the gateways that share it does the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.body import Body
from gateway.model import Clock, Entry, Key, digest, new_id
from gateway.store import Claim, FrontStore, Held, Lease, LeaseLostError, Leases
from gateway.store.sharing import Sharing
from gateway.warming.ahead import RefreshAhead, Saved

_VERSION: Final = b"1"
_saved: Final = msgspec.msgpack.Decoder(Saved)


class Records:
    """Saves and loads; leads one entry or not. Moments in what is stored count from its age, not from any clock."""

    def __init__(self, store: FrontStore, leases: Leases, sharing: Sharing | None, name: str, clock: Clock) -> None:
        self._store = store
        self._leases = leases
        self._sharing = sharing
        self._name = name
        self._clock = clock
        self._held: dict[Key, Lease] = {}
        self.peek = store.peek

    async def is_ours(self, ahead: RefreshAhead) -> bool:
        """Whether this gateway does the work: of several with one store, one does; while Redis is gone, none."""
        if not self._leases.for_many:
            return True
        key = _key(ahead, "lease")
        lease = self._held.get(key)
        if lease is None:
            claimed = await self._leases.claim(Claim(key, new_id(), ""))
            if isinstance(claimed, Held):
                return False
            self._held[key] = lease = claimed
        try:
            await lease.confirm()
        except LeaseLostError:
            del self._held[key]
            return False
        return lease.number > 0 and self._leases.shared

    async def release(self, ahead: RefreshAhead) -> None:
        """Let another gateway do the work."""
        if (lease := self._held.pop(_key(ahead, "lease"), None)) is not None:
            await lease.release()

    async def bring(self, key: Key) -> None:
        """Have the entry under this key in memory, where the store has one."""
        await self._store.get(key)

    async def save(self, ahead: RefreshAhead) -> None:
        """Save what the next process, or the next gateway that leads, goes on with."""
        await self._put(_key(ahead, "state"), ahead, ahead.saved(self._clock.monotonic()))

    async def load(self, ahead: RefreshAhead) -> None:
        """Go on with what was saved."""
        if (found := await self._get(_key(ahead, "state"))) is not None:
            ahead.restore(*found)

    async def share(self, ahead: RefreshAhead) -> None:
        """Let the gateway that leads know what this one was asked for."""
        saved = msgspec.structs.replace(ahead.saved(self._clock.monotonic()), spent=())
        await self._put(_key(ahead, self._name), ahead, saved)

    async def merge(self, ahead: RefreshAhead) -> None:
        """Learn what the others were asked for."""
        others = {name: await self._get(_key(ahead, name)) for name in self._others()}
        ahead.merge({name: found for name, found in others.items() if found is not None})

    def _others(self) -> Iterable[str]:
        if self._sharing is None:
            return []
        stats = self._sharing.stats()  # one that is silent for a moment has still said what it was asked for
        return [name for name, _ in (*stats.gateways, *stats.silent) if name != self._name]

    async def _put(self, key: Key, ahead: RefreshAhead, saved: Saved) -> None:
        data, now = msgspec.msgpack.encode(saved), self._clock.monotonic()
        entry = Entry(
            body_id=digest(b"body", key, data),
            scope=ahead.scope,
            query_id=0,
            result_id=0,
            form="metadata",
            born=now,
            confirmed=now,
            size=len(data),
        )
        await self._store.put([key], entry, Body.of(data))

    async def _get(self, key: Key) -> tuple[Saved, float] | None:
        entry = await self._store.get(key)
        body = await self._store.read(entry) if entry is not None else None
        if entry is None or body is None or body.data is None:
            return None
        try:
            return _saved.decode(body.data), entry.born
        except (msgspec.DecodeError, RecursionError):  # of another version
            return None


def _key(ahead: RefreshAhead, what: str) -> Key:
    return digest(b"warming", _VERSION, ahead.scope.encode(), what.encode())
