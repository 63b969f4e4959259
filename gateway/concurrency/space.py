"""Bytes that several parts count against one limit, from the moment when they are written."""

from __future__ import annotations

from collections import deque


class Space:
    """A limit in bytes, on a disk or in memory, and what is taken of it. Only `add` may be called in other threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.beside = 0
        """Bytes under the same limit that are measured, not counted here."""
        self._taken = 0
        # No lock: the garbage collector may call `add` anywhere, also within a call of `add`.
        self._changes: deque[int] = deque()

    @property
    def taken(self) -> int:
        """Return the bytes that are counted here."""
        while self._changes:
            self._taken += self._changes.popleft()
        return self._taken

    @property
    def used(self) -> int:
        """Return all bytes that count against the limit."""
        return self.taken + self.beside

    def fits(self, count: int) -> bool:
        """Whether so many more bytes are within the limit."""
        return self.used + count <= self.limit

    def take(self, count: int) -> bool:
        """Count so many more bytes if they are within the limit; return whether they are."""
        fits = self.fits(count)
        if fits:
            self.add(count)
        return fits

    def add(self, count: int) -> None:
        """Count so many more bytes, whatever the limit; negative: they are not there any more."""
        self._changes.append(count)
