"""A large answer on its way: a file that grows while Redash sends it, for any number of readers at their own pace."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from io import BufferedRandom
from pathlib import Path
from typing import Final

from gateway.concurrency.flight import Event
from gateway.concurrency.openfile import OpenFile
from gateway.errors import UpstreamError, UpstreamUnusable

HELD_BACK_BYTES: Final = 4096
"""The end of an answer goes out only when all of it has been read, checked and kept. Whoever got it whole can rely on
that, and whoever did not sees a broken connection instead of a broken answer."""

_BROKEN: Final = "Redash's answer broke off, or its end was no good."
_NO_ROOM: Final = "The gateway has no room on disk for this answer."


class Spool:
    """The file, how much of it may be read, and whether it came to a good end.

    It can be read by whoever refers to this, whatever becomes of its name; where no store gives it another, it goes
    with the last reference.
    """

    def __init__(self, path: Path, size: int | None) -> None:
        """Make the file; waits for the disk. `size` is the length in bytes that was announced, None where none was.

        Raises:
            UpstreamUnusable: it cannot be made.
        """
        try:
            self._file: _File | None = _File(path)
        except OSError as error:
            raise UpstreamUnusable(_NO_ROOM) from error
        self.path = path
        self.size = size
        self._written = self._readable = 0
        self._moved = Event()  # happens at the end, good or bad

    async def append(self, pieces: list[bytes]) -> int:
        """Write what has come; return how much that is by now.

        Raises:
            UpstreamUnusable: there is no room for it.
            UpstreamError: it has been given up.
        """
        try:
            await asyncio.to_thread(self._there.write, pieces)
        except OSError as error:
            raise UpstreamUnusable(_NO_ROOM) from error
        self._written += sum(map(len, pieces))
        self._readable = max(0, self._written - HELD_BACK_BYTES)
        self._moved.release()
        return self._written

    def end(self) -> None:
        """Let readers have the end: the whole has been found good. Does nothing after `fail`."""
        if self._file is not None:
            self.size = self._readable = self._written
        self._moved.set()

    def fail(self) -> None:
        """Tell readers that there will be no end; the file goes. Does nothing after `end`."""
        if not self._moved.is_set:
            self._file = None
        self._moved.set()

    @property
    def failed(self) -> bool:
        """Whether no good end will come."""
        return self._file is None

    async def follow(self, sent: float) -> int:
        """Wait until more than `sent` bytes may be read; return how many, or all there are where no more will come.

        Raises:
            UpstreamError: no good end will come.
        """
        while self._readable <= sent and not self._moved.is_set:
            await self._moved.wait()
        if self._file is None:
            raise UpstreamError(_BROKEN)
        return self._readable

    def read(self, start: int, count: int) -> bytes:
        """Read so many bytes from `start` on. May wait for the disk.

        Raises:
            UpstreamError: no good end will come.
        """
        return self._there.read(start, count)

    def send(self, plug: int, start: int, count: int) -> int:
        """Send bytes to a socket, as many as it takes; returns how many that was, 0 where it takes none now.

        Raises:
            UpstreamError: no good end will come.
            OSError: the socket is broken.
        """
        return self._there.send(plug, start, count)

    @property
    def _there(self) -> _File:
        if self._file is None:
            raise UpstreamError(_BROKEN)
        return self._file


class _File(OpenFile):
    """Open for whoever refers to it: errors may hold the spool for long (their tracebacks do), not this."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b")
        super().__init__(self._file.fileno())
        weakref.finalize(self, _let_go, self._file, path)

    def write(self, pieces: list[bytes]) -> None:
        self._file.writelines(pieces)
        self._file.flush()


def _let_go(file: BufferedRandom, path: Path) -> None:
    """See to it that the file goes; this may be called in the midst of anything, also of what takes locks."""
    try:
        loop = asyncio.get_running_loop()
        loop.call_soon(_remove_in_thread, loop, file, path)
    except RuntimeError:  # no loop, or one that has ended
        _remove(file, path)


def _remove_in_thread(loop: asyncio.AbstractEventLoop, file: BufferedRandom, path: Path) -> None:
    """Close and remove it without holding anybody up: a large file takes some milliseconds to free."""
    try:
        loop.run_in_executor(None, _remove, file, path)
    except RuntimeError:  # the loop is ending
        _remove(file, path)


def _remove(file: BufferedRandom, path: Path) -> None:
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
