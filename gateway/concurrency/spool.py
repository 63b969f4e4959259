"""A large response in transit: a file that grows while Redash sends it; every reader has its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from io import BufferedRandom
from pathlib import Path
from typing import Final

from gateway.concurrency.events import Event
from gateway.concurrency.open_file import OpenFile
from gateway.errors import UpstreamError, UpstreamUnusable

HELD_BACK_BYTES: Final = 4096
"""The end of a response is sent only after all of it has been read, checked and stored. So a complete response is
always valid, and an invalid one ends as a broken connection."""

_BROKEN: Final = "Redash's response broke off, or its end was not valid."
_NO_ROOM: Final = "The gateway has no room on disk for this response."


class Spool:
    """The file, how much of it may be read, and whether it is complete.

    It can be read as long as a reference to this exists, even if its name is removed. Unless a store gives it another
    name, it is deleted with the last reference.
    """

    def __init__(self, path: Path, size: int | None) -> None:
        """Create the file; waits for the disk. `size` is the announced length in bytes, None if there was none.

        Raises:
            UpstreamUnusable: it cannot be created.
        """
        try:
            self._file: _File | None = _File(path)
        except OSError as error:
            raise UpstreamUnusable(_NO_ROOM) from error
        self.path = path
        self.size = size
        self._written = self._readable = 0
        self._ended = Event()  # set at the end, good or bad; woken at every growth

    async def append(self, pieces: list[bytes]) -> int:
        """Write the next bytes; return the number of all bytes by now.

        Raises:
            UpstreamUnusable: there is no room on disk.
            UpstreamError: it has failed.
        """
        try:
            await asyncio.to_thread(self._open_file.write, pieces)
        except OSError as error:
            raise UpstreamUnusable(_NO_ROOM) from error
        self._written += sum(map(len, pieces))
        self._readable = max(0, self._written - HELD_BACK_BYTES)
        self._ended.wake()
        return self._written

    def end(self) -> None:
        """Make the end readable: the whole response is valid. Does nothing after `fail`."""
        if self._file is not None:
            self.size = self._readable = self._written
        self._ended.set()

    def fail(self) -> None:
        """Fail the readers and delete the file. Does nothing after `end`."""
        if not self._ended.is_set:
            self._file = None
        self._ended.set()

    @property
    def failed(self) -> bool:
        """Whether it will never be complete."""
        return self._file is None

    async def follow(self, sent: float) -> int:
        """Wait until more than `sent` bytes may be read, or until the end; return how many may be read.

        Raises:
            UpstreamError: it will never be complete.
        """
        while self._readable <= sent and not self._ended.is_set:
            await self._ended.wait()
        if self._file is None:
            raise UpstreamError(_BROKEN)
        return self._readable

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk.

        Raises:
            UpstreamError: it will never be complete.
        """
        return self._open_file.read(start, count)

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send at most `count` bytes to a socket; returns how many it took, 0 if it takes none now.

        Raises:
            UpstreamError: it will never be complete.
            OSError: the socket is broken.
        """
        return self._open_file.send(socket_fd, start, count)

    @property
    def _open_file(self) -> _File:
        if self._file is None:
            raise UpstreamError(_BROKEN)
        return self._file


class _File(OpenFile):
    """Closed and deleted with its last reference: tracebacks of errors may hold the spool for long, but not this."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b")
        super().__init__(self._file.fileno())
        weakref.finalize(self, _remove_later, self._file, path)

    def write(self, pieces: list[bytes]) -> None:
        self._file.writelines(pieces)
        self._file.flush()


def _remove_later(file: BufferedRandom, path: Path) -> None:
    """Remove the file soon. The garbage collector may call this anywhere, also inside code that holds locks."""
    try:
        loop = asyncio.get_running_loop()
        loop.call_soon(_remove_in_thread, loop, file, path)
    except RuntimeError:  # no loop, or a closed one
        _remove(file, path)


def _remove_in_thread(loop: asyncio.AbstractEventLoop, file: BufferedRandom, path: Path) -> None:
    """Close and remove it without blocking the loop: to free a large file takes some milliseconds."""
    try:
        loop.run_in_executor(None, _remove, file, path)
    except RuntimeError:  # the loop is ending
        _remove(file, path)


def _remove(file: BufferedRandom, path: Path) -> None:
    with contextlib.suppress(OSError):
        file.close()
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
