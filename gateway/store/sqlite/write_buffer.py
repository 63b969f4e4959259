"""What the SQLite store has accepted and not yet written, and what it keeps for a minute only. Plain data, no I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from gateway.model import Body, Entry, Key

PUT_OVERHEAD = 1024


class PendingPut:
    """One call of `put`. `cancelled` is also read on the connection's thread, just before rows are written."""

    __slots__ = ("body", "cancelled", "entry", "expires", "file", "keys", "written")

    def __init__(self, keys: Sequence[Key], entry: Entry, body: Body, expires: float | None) -> None:
        self.keys = set(keys)
        self.entry = entry
        self.body = body
        self.expires = expires  # monotonic; None: it is written
        self.cancelled = False
        self.file = body.path  # or where `data` was written to
        self.written = False

    @property
    def size(self) -> int:
        """What it takes in memory."""
        return PUT_OVERHEAD + (len(self.body.data) if self.body.data is not None else 0)


class WriteBuffer:
    """Bounded by the bytes it holds in memory. Newer puts hide older ones under the same key or body id."""

    def __init__(self, limit_bytes: int) -> None:
        self.filled = asyncio.Event()
        self.drained = asyncio.Event()
        self.drained.set()
        self._limit = limit_bytes
        self._bytes = 0
        self._queue: deque[PendingPut] = deque()
        self._taken: list[PendingPut] = []
        self._brief: list[PendingPut] = []
        self._by_key: dict[Key, PendingPut] = {}
        self._by_body: dict[bytes, PendingPut] = {}

    def add(self, put: PendingPut) -> bool:
        """Accept it; False where there is no room."""
        if self._bytes + put.size > self._limit:
            return False
        self._bytes += put.size
        for key in put.keys & self._by_key.keys():
            self._by_key[key].keys.discard(key)  # else the older one would show again when this one is forgotten
        self._by_key.update(dict.fromkeys(put.keys, put))
        self._by_body[put.entry.body_id] = put
        if put.expires is not None:
            self._brief.append(put)
        self._queue.append(put)  # brief ones too: older entries under their keys must go from the file
        self.filled.set()
        self.drained.clear()
        return True

    def put_of(self, key: Key, now: float) -> PendingPut | None:
        """What was kept last under a key. `now` is monotonic."""
        return _alive(self._by_key.get(key), now)

    def hides(self, key: Key) -> bool:
        """Whether what the file holds under a key has been replaced here."""
        return key in self._by_key

    def put_with(self, body_id: bytes, now: float) -> PendingPut | None:
        """What was kept last with that body. `now` is monotonic."""
        return _alive(self._by_body.get(body_id), now)

    def take(self, count: int, size: int) -> list[PendingPut]:
        """The next puts to write, at least one if there is any; they stay visible until `settle`."""
        while self._queue and len(self._taken) < count and (size > 0 or not self._taken):
            self._taken.append(self._queue.popleft())
            size -= self._taken[-1].size
        if not self._queue:
            self.filled.clear()
        return self._taken

    def settle(self) -> None:
        """What was taken is written or given up."""
        taken, self._taken = self._taken, []
        for put in taken:
            if put.expires is None:
                self._release(put)
        if not self._queue:
            self.drained.set()

    def cancel(self, scope: str | None, query_id: int | None) -> tuple[set[Key], list[PendingPut]]:
        """Cancel by scope and query (None: all). Returns the keys that led there and the puts nobody will write."""
        keys: set[Key] = set()
        untaken: list[PendingPut] = []
        for put in [*self._queue, *self._taken, *self._brief]:
            if scope in (None, put.entry.scope) and query_id in (None, put.entry.query_id) and not put.cancelled:
                put.cancelled = True
                keys |= {key for key in put.keys if self._by_key.get(key) is put}
                if put in self._taken and put.expires is None:
                    self._hide(put)
                else:
                    self._release(put)
                    untaken.append(put)
        self._queue = deque(put for put in self._queue if not put.cancelled)
        self._brief = [put for put in self._brief if not put.cancelled]
        return keys, untaken

    def expire(self, now: float) -> list[PendingPut]:
        """Take out what was kept briefly and long enough."""
        due = [put for put in self._brief if _alive(put, now) is None]
        self._brief = [put for put in self._brief if put not in due]
        for put in due:
            self._release(put)
        return due

    def clear(self) -> list[PendingPut]:
        """Give up everything; returns it."""
        left = {*self._taken, *self._queue, *self._brief}
        for queue in (self._taken, self._queue, self._brief, self._by_key, self._by_body):
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


def _alive(put: PendingPut | None, now: float) -> PendingPut | None:
    return put if put is not None and (put.expires is None or put.expires > now) else None
