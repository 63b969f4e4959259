"""Where the bytes of a spool are: in a new file on the disk, or in memory where the disk has no room for more.

Both are released with their last reference: tracebacks of errors may hold a spool for long, but not these.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import Final

from gateway.concurrency.open_file import OpenFile
from gateway.concurrency.space import Space

MARGIN_SHARE: Final = 64
"""A part of the limit that spools leave to what is measured from time to time, and grows meanwhile: a database."""

MOST_BUFFERS: Final = 512
"""How many pieces one system call takes (IOV_MAX is 1,024)."""


class SpoolFile(OpenFile):
    """A new file, and how many bytes of `space` it has taken. It is closed and deleted with its last reference."""

    def __init__(self, descriptor: int, path: Path, space: Space) -> None:
        super().__init__(descriptor)
        self.path = path
        self._held = _Held(descriptor, path, space)
        weakref.finalize(self, _release_later, self._held)

    @property
    def margin(self) -> int:
        """Return how many bytes must stay free."""
        return self._held.space.limit // MARGIN_SHARE

    def take(self, count: int) -> bool:
        """Count so many more bytes, if they are within the limit; return whether they may be written."""
        fits = self._held.space.fits(count + self.margin)
        if fits:
            self.add(count)
        return fits

    def add(self, count: int) -> None:
        """Count so many more bytes, whatever the limit."""
        self._held.space.add(count)
        self._held.count += count

    def write(self, pieces: list[bytes], start: int) -> None:
        """Write pieces from `start` on. Waits for the disk. Raises OSError: part of them may be written."""
        for first in range(0, len(pieces), MOST_BUFFERS):
            buffers = [memoryview(piece) for piece in pieces[first : first + MOST_BUFFERS] if piece]
            while buffers:
                count = os.pwritev(self._descriptor, buffers, start)
                start += count
                while buffers and count >= len(buffers[0]):
                    count -= len(buffers.pop(0))
                if count:
                    buffers[0] = buffers[0][count:]

    def sync(self) -> None:
        """Wait until the bytes are on the disk. Raises OSError."""
        os.fsync(self._descriptor)


class _Held:
    """What must be released with a file: it outlives the `SpoolFile` for a moment."""

    __slots__ = ("count", "descriptor", "path", "space")

    def __init__(self, descriptor: int, path: Path, space: Space) -> None:
        self.descriptor = descriptor
        self.path = path
        self.space = space
        self.count = 0

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        try:
            self.path.unlink()
        except OSError:  # the store has given it another name: the bytes are still there
            return
        self.space.add(-self.count)


def _release_later(held: _Held) -> None:
    """Release it soon. The garbage collector may call this anywhere, also inside code that holds locks."""
    try:
        loop = asyncio.get_running_loop()
        loop.call_soon(_release_in_thread, loop, held)
    except RuntimeError:  # no loop, or a closed one
        held.release()


def _release_in_thread(loop: asyncio.AbstractEventLoop, held: _Held) -> None:
    """Release it without blocking the loop: to free a large file takes some milliseconds."""
    try:
        loop.run_in_executor(None, held.release)
    except RuntimeError:  # the loop is ending
        held.release()


class Window:
    """The latest bytes of a response, in memory: from `start` to `end`."""

    LEAST_BYTES = 1 << 20
    """So much each takes, whatever others have taken. It is more than what is written at once."""

    def __init__(self, start: int, space: Space) -> None:
        self.start = self.end = start
        self._data = bytearray()
        self._lock = threading.Lock()  # threads read it
        self._space = space
        self._taken = [self.LEAST_BYTES]
        space.add(self.LEAST_BYTES)
        weakref.finalize(self, _give_back, space, self._taken)

    def grow(self, count: int) -> bool:
        """Make room for so many more bytes, within the limit of all windows together; return whether there is."""
        lacking = len(self._data) + count - self._taken[0]
        if lacking > 0 and not self._space.take(lacking):
            return False
        self._taken[0] += max(0, lacking)
        return True

    @property
    def length(self) -> int:
        """Return how many bytes it has room for."""
        return self._taken[0]

    def append(self, pieces: list[bytes]) -> None:
        """Append bytes for which there is room."""
        with self._lock:
            for piece in pieces:
                self._data += piece
                self.end += len(piece)

    def drop(self, before: int) -> None:
        """Forget the bytes before that position: others may take their room."""
        with self._lock:
            del self._data[: before - self.start]
            self.start = before

    def read(self, start: int, count: int) -> bytes:
        """Return bytes from `start` on, at most so many. Raises TimeoutError if they have been dropped."""
        with self._lock:
            first = start - self.start
            if first < 0:
                raise TimeoutError
            return bytes(self._data[first : first + count])


def _give_back(space: Space, taken: list[int]) -> None:
    space.add(-taken[0])
