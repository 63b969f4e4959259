"""What the SQLite store has accepted but not committed, and what it stores for only a minute. Plain data, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from gateway.body import Body
from gateway.model import Entry, Key

PUT_OVERHEAD = 1024

LEAST_QUEUE_BYTES = 4 * 2**20
MOST_QUEUE_BYTES = 64 * 2**20


def queue_limit(wanted_bytes: int) -> int:
    """Return the limit of a queue of writes: as wanted, within bounds."""
    return min(MOST_QUEUE_BYTES, max(LEAST_QUEUE_BYTES, wanted_bytes))


class PendingPut:
    """One call of `put`. The connection's thread also reads `cancelled`, just before it writes rows."""

    __slots__ = ("body", "cancelled", "entry", "expires", "keys", "stored", "written")

    def __init__(self, keys: Sequence[Key], entry: Entry, body: Body, expires: float | None) -> None:
        self.keys = set(keys)
        self.entry = entry
        self.body = body
        self.expires = expires  # monotonic; None: it is to be committed
        self.cancelled = False
        self.stored = body  # or the file that its `data` was written to
        self.written = False

    @property
    def size(self) -> int:
        """Return the bytes it takes in memory."""
        return PUT_OVERHEAD + (len(self.body.data) if self.body.data is not None else 0)


class WriteBuffer:
    """Bounded by the bytes in memory. A newer put hides older ones with the same key or body id."""

    def __init__(self, limit_bytes: int) -> None:
        self.filled = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self._limit = limit_bytes
        self._bytes = 0
        self._queue: deque[PendingPut] = deque()
        self._taken: list[PendingPut] = []
        self._oversize: list[PendingPut] = []
        self._by_key: dict[Key, PendingPut] = {}
        self._by_body: dict[bytes, PendingPut] = {}

    def add(self, put: PendingPut) -> bool:
        """Accept it; return False if there is no room."""
        if self._bytes + put.size > self._limit:
            return False
        self._bytes += put.size
        for key in put.keys & self._by_key.keys():
            self._by_key[key].keys.discard(key)  # otherwise the older one would reappear when this one is deleted
        self._by_key.update(dict.fromkeys(put.keys, put))
        self._by_body[put.entry.body_id] = put
        if put.expires is not None:
            self._oversize.append(put)
        self._queue.append(put)  # oversize ones too: older entries under their keys must be deleted from the file
        self.filled.set()
        self.drained.clear()
        return True

    def get(self, key: Key, now: float) -> PendingPut | None:
        """Return the newest put under a key. `now` is monotonic."""
        return _unless_expired(self._by_key.get(key), now)

    def hides(self, key: Key) -> bool:
        """Whether this buffer has a newer entry under a key than the file."""
        return key in self._by_key

    def get_by_body(self, body_id: bytes, now: float) -> PendingPut | None:
        """Return the newest put of that body. `now` is monotonic."""
        return _unless_expired(self._by_body.get(body_id), now)

    def take(self, count: int, size: int) -> list[PendingPut]:
        """Return the next puts to commit, at least one if there is any; they stay visible until `settle`."""
        while self._queue and len(self._taken) < count and (size > 0 or not self._taken):
            self._taken.append(self._queue.popleft())
            size -= self._taken[-1].size
        if not self._queue:
            self.filled.clear()
        return self._taken

    def settle(self) -> None:
        """Release what was taken: it has been committed or given up."""
        taken, self._taken = self._taken, []
        for put in taken:
            if put.expires is None:
                self._release(put)
        if not self._queue:
            self.drained.set()

    def cancel(self, scope: str | None, query_id: int | None) -> tuple[set[Key], list[PendingPut]]:
        """Cancel by scope and query (None: all). Return their visible keys, and the puts that will not be committed."""
        keys: set[Key] = set()
        untaken: list[PendingPut] = []
        for put in [*self._queue, *self._taken, *self._oversize]:
            if scope in (None, put.entry.scope) and query_id in (None, put.entry.query_id) and not put.cancelled:
                put.cancelled = True
                keys |= {key for key in put.keys if self._by_key.get(key) is put}
                if put in self._taken and put.expires is None:
                    self._hide(put)
                else:
                    self._release(put)
                    untaken.append(put)
        self._queue = deque(put for put in self._queue if not put.cancelled)
        self._oversize = [put for put in self._oversize if not put.cancelled]
        return keys, untaken

    def queries(self, scope: str) -> set[int]:
        """Return the queries of which there are puts in a scope."""
        puts = [*self._queue, *self._taken, *self._oversize]
        return {put.entry.query_id for put in puts if put.entry.scope == scope and not put.cancelled}

    def expire(self, now: float) -> list[PendingPut]:
        """Remove and return the oversize puts that have expired."""
        due = [put for put in self._oversize if _unless_expired(put, now) is None]
        self._oversize = [put for put in self._oversize if put not in due]
        for put in due:
            self._release(put)
        return due

    def clear(self) -> list[PendingPut]:
        """Give up everything and return it."""
        left = {*self._taken, *self._queue, *self._oversize}
        for queue in (self._taken, self._queue, self._oversize, self._by_key, self._by_body):
            queue.clear()
        return list(left)

    def _release(self, put: PendingPut) -> None:
        self._bytes -= put.size
        self._hide(put)

    def _hide(self, put: PendingPut) -> None:
        for key in put.keys:
            if self._by_key.get(key) is put:
                del self._by_key[key]
        if self._by_body.get(put.entry.body_id) is put:
            del self._by_body[put.entry.body_id]


def _unless_expired(put: PendingPut | None, now: float) -> PendingPut | None:
    return put if put is not None and (put.expires is None or put.expires > now) else None
