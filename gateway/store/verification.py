"""Whether the file of a body has the bytes that were stored: its digest when it is read first, cheap marks later."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from gateway.body import Body
from gateway.concurrency.flights import Flights
from gateway.model import Clock

log = logging.getLogger(__name__)

MOST_MARKS: Final = 20_000
"""About 4 MB; files that were verified longer ago are hashed again."""

AT_ONCE: Final = 2
"""How many files are hashed at the same time: more would take the threads from everything else."""

BYTES_PER_SECOND: Final = 20 * 10**6
LEAST_SECONDS: Final = 5.0
"""A disk that is slower than this is as bad as none: the body counts as lost, and the query runs."""

COMPLAINT_SECONDS: Final = 60.0


def hash_of(body: Body) -> bytes:
    """Return the SHA-256 of a file. Waits for the disk.

    Raises:
        OSError: it cannot be read, or it is another file by now.
    """
    with os.fdopen(body.open(), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Verification:
    """Hashes each file once in this process; afterwards its length, time and inode must stay the same."""

    def __init__(self) -> None:
        self._marks: LRUCache[Path, object] = LRUCache(MOST_MARKS)
        self._hashing: Flights[bytes | None] = Flights()
        self._turns = asyncio.Semaphore(AT_ONCE)

    def note(self, body: Body) -> None:
        """Note that a file was hashed when it was written."""
        assert body.path is not None  # noqa: S101 - it is a file
        self._marks[body.path] = body.mark

    async def holds(self, body: Body, digest: bytes) -> bool:
        """Whether a file, whose mark is in `body`, has the digest; it is hashed unless this mark was noted before."""
        assert body.path is not None  # noqa: S101 - it is a file
        if self._marks.get(body.path) == body.mark:
            return True
        found, _ = await self._hashing.share((body.path, body.mark), lambda: self._hash(body))
        if found == digest:
            self.note(body)
        return found == digest

    async def _hash(self, body: Body) -> bytes | None:
        try:
            async with asyncio.timeout(LEAST_SECONDS + body.size / BYTES_PER_SECOND), self._turns:
                return await asyncio.to_thread(hash_of, body)
        except OSError:  # includes TimeoutError
            return None

    async def aclose(self) -> None:
        """Stop what is being hashed."""
        await self._hashing.aclose()


class Complaints:
    """Logs what was lost, at most once a minute: after a disaster, each of many thousand bodies is lost."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = clock.monotonic()
        self._untold = 0

    def add(self, what: str, why: str) -> None:
        """Log that a body is lost, or count it for the next line."""
        if self._clock.monotonic() < self._next:
            self._untold += 1
            return
        more = f", and {self._untold} others before it" if self._untold else ""
        log.warning("a stored body %s (%s%s); it is deleted, its query runs again", why, what, more)
        self._next, self._untold = self._clock.monotonic() + COMPLAINT_SECONDS, 0
