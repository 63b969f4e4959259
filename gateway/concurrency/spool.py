"""A large response in transit: a file that grows while Redash sends it; every reader has its own pace.

Where the disk has no room for all of it, what follows passes through a window in memory, as fast as its readers read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from gateway.body import Body
from gateway.concurrency.events import Event, wait_for
from gateway.concurrency.space import Space
from gateway.concurrency.spool_file import SpoolFile, Window
from gateway.errors import UpstreamError, UpstreamUnusable

HELD_BACK_BYTES: Final = 4096
"""The end of a response is sent only after all of it has been read, checked and stored. So a complete response is
always valid, and an invalid one ends as a broken connection."""

BEGINNING_BYTES: Final = 64 * 1024
"""How much of the beginning is remembered when the window moves on: the head of a result, before its rows."""

FIRST_READERS_SECONDS: Final = 0.5
"""Before the window moves on for the first time, those who were just given this response must have begun to read it."""

SLOW_SECONDS: Final = 10.0
SLOW_BYTES: Final = 128 * 1024
"""A reader that holds up the window and reads less than this in that time is given up."""

TICK_SECONDS: Final = 0.02

UNREAD_SECONDS: Final = 30.0
"""How long the window moves on though nobody reads."""

_BROKEN: Final = "Redash's response broke off, or its end was not valid."
_TOO_LARGE: Final = "Redash's response is larger than the gateway can keep now (cache.max_entry, cache.disk)."


class Disk(Protocol):
    """Where the files of spools are. Errors of the disk end here."""

    async def create(self) -> SpoolFile | None:
        """Create a file; None if that is not possible."""

    async def append(self, file: SpoolFile, size: int, pieces: list[bytes]) -> bool:
        """Write pieces behind the first `size` bytes of a file; return whether there was room for them."""


class Spool:
    """The bytes, how many of them may be read, and whether they are complete.

    It can be read as long as a reference to this exists. Unless a store gives its file another name, the file is
    deleted with the last reference.
    """

    def __init__(self, disk: Disk, file: SpoolFile | None, memory: Space, size: int | None) -> None:
        """`size` is the announced length in bytes, None if there was none; `memory` is what windows may take."""
        self.size = size
        self._disk = disk
        self._file = file
        self._kept = 0  # bytes in the file
        self._memory = memory
        self._window: Window | None = None  # the bytes behind those in the file
        self._beginning: bytes | None = None  # remembered before the window moves on
        self._readable = 0
        self._readers: set[SpoolReader] = set()
        self._read_at = 0.0  # when it was last read, if the window has moved on
        self._failed = False
        self._ended = Event()  # set at the end, good or bad; woken at every growth
        self._moved = Event()  # woken when a reader has read

    @classmethod
    async def begin(cls, disk: Disk, memory: Space, size: int | None) -> Spool:
        """Make a spool, on the disk if that is possible."""
        return cls(disk, await disk.create(), memory, size)

    @property
    def _written(self) -> int:
        return self._kept if self._window is None else self._window.end

    async def append(self, pieces: list[bytes]) -> int:
        """Write the next bytes; return the number of all bytes by now.

        Raises:
            UpstreamUnusable: there is no room for all of it, and nobody reads it.
            UpstreamError: it has failed.
        """
        self._check()
        count = sum(map(len, pieces))
        if self._window is None and not await self._extend_file(pieces, count):
            self._window = await self._begin_window()
        if self._window is not None:
            if not self._window.grow(count):
                await self._move_on(self._window, count)
            self._window.append(pieces)
        self._check()
        self._readable = max(0, self._written - HELD_BACK_BYTES)
        self._ended.wake()
        return self._written

    async def _extend_file(self, pieces: list[bytes], count: int) -> bool:
        if self._file is None or not await self._disk.append(self._file, self._kept, pieces):
            return False
        self._kept += count
        return True

    async def _begin_window(self) -> Window:
        """Let what follows pass through memory; also what is in the file, if that is not much."""
        if self._kept > Window.LEAST_BYTES // 2:
            return Window(self._kept, self._memory)
        window = Window(0, self._memory)
        if self._kept:
            window.append([await asyncio.to_thread(self._read, 0, self._kept)])
        self._file, self._kept = None, 0
        return window

    async def _move_on(self, window: Window, count: int) -> None:
        """Drop what has been read, until there is room for `count` more bytes."""
        if self._beginning is None:
            self._beginning, _ = await asyncio.to_thread(self.ends, BEGINNING_BYTES, 0)
            self._read_at = _now()
            await asyncio.sleep(FIRST_READERS_SECONDS)
        needed = window.end + count - window.length
        await self._until_read(needed)
        if self._readers:
            self._read_at = _now()
        elif _now() - self._read_at > UNREAD_SECONDS:
            raise UpstreamUnusable(_TOO_LARGE)
        window.drop(needed)

    async def _until_read(self, end: int) -> None:
        """Wait until every reader has read what is before `end`; give up those that make no progress."""
        while behind := {reader: reader.position for reader in self._readers if reader.position < end}:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOW_SECONDS):
                    while any(reader.position < end for reader in self._readers):
                        self._check()
                        await wait_for(self._moved, TICK_SECONDS)  # what threads have read wakes nobody
            self._give_up({reader for reader, was in behind.items() if reader.position < min(end, was + SLOW_BYTES)})

    def _give_up(self, slow: set[SpoolReader]) -> None:
        for reader in slow:
            reader.is_too_slow = True
        self._readers -= slow

    async def body(self) -> Body:
        """Return the response, all of which has arrived: as a file, as data, or else without both."""
        self._check()
        size = self._written
        if self._window is None and self._file is not None:
            return Body(size=size, path=self._file.path, spool=self)
        if self._kept == 0 and self.is_whole:
            return Body(size=size, data=await asyncio.to_thread(self._read, 0, size), spool=self)
        return Body(size=size, spool=self)

    def end(self) -> None:
        """Make the end readable: the whole response is valid. Does nothing after `fail`."""
        if not self._failed:
            self.size = self._readable = self._written
        self._ended.set()

    def fail(self) -> None:
        """Fail the readers and delete the file. Does nothing after `end`."""
        if not self._ended.is_set:
            self._failed, self._file, self._window = True, None, None
        self._ended.set()
        self._moved.wake()

    @property
    def is_whole(self) -> bool:
        """Whether it can be read from the beginning, and has not failed."""
        return not self._failed and (self._window is None or self._window.start == self._kept)

    async def follow(self, sent: float) -> int:
        """Wait until more than `sent` bytes may be read, or until the end; return how many may be read.

        Raises:
            UpstreamError: it will never be complete.
            UpstreamUnusable: what follows is not there any more; if `sent` is infinite, the beginning.
        """
        while self._readable <= sent and not self._ended.is_set:
            await self._ended.wait()
        self._check()
        begin = sent if sent <= self._readable else 0
        if self._window is not None and begin < self._window.start and not self.is_whole:
            raise UpstreamUnusable(_TOO_LARGE)
        return self._readable

    @contextmanager
    def reading(self) -> Iterator[SpoolReader]:
        """Read it from the beginning: the window does not move on before this reader has read it."""
        reader = SpoolReader(self)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            reader.position = self._written
            self._moved.wake()

    def note_progress(self) -> None:
        """Note that a reader has read something. Call it on the event loop."""
        if self._window is not None:
            self._moved.wake()

    def ends(self, first: int, last: int) -> tuple[bytes, bytes]:
        """Return at most `first` bytes of the beginning and `last` bytes of the end. Waits for the disk.

        Raises:
            UpstreamError: it has failed.
        """
        beginning = self._beginning if self._beginning is not None else self._read(0, min(first, self._written))
        return beginning[:first], self._read(max(0, self._written - last), min(last, self._written))

    def _read(self, start: int, count: int) -> bytes:
        pieces: list[bytes] = []
        while count > 0:
            piece = self.read(start, count)
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return b"".join(pieces)

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk; raises UpstreamError if it has failed."""
        file, window = self._file, self._window
        if file is not None and start < self._kept:
            return file.read(start, min(count, self._kept - start))
        if window is None:
            raise UpstreamError(_BROKEN)
        return window.read(start, count)

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send at most `count` bytes to a socket; as `read`. Returns how many it took, 0 if it takes none now."""
        file = self._file
        if file is not None and start < self._kept:
            return file.send(socket_fd, start, min(count, self._kept - start))
        try:
            return os.write(socket_fd, self.read(start, count))
        except BlockingIOError:
            return 0

    def _check(self) -> None:
        if self._failed:
            raise UpstreamError(_BROKEN)


BeginSpool = Callable[[int | None], Awaitable[Spool]]
"""Makes a spool for a response of the announced length (None: unknown)."""


class SpoolReader:
    """One caller that reads a spool from its beginning."""

    def __init__(self, spool: Spool) -> None:
        self.position = 0
        self.is_too_slow = False
        self._spool = spool

    async def follow(self, sent: int) -> int:
        """Wait until more than `sent` bytes may be read, or until the end; return how many may be read.

        Raises:
            UpstreamError: it will never be complete.
            TimeoutError: this reader is too slow for a response that cannot be kept.
        """
        self._advance(sent)
        return await self._spool.follow(sent)

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk. Raises as `follow`."""
        self.position = max(self.position, start)  # no more: this may be another thread
        return self._spool.read(start, count)

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send at most `count` bytes to a socket; returns how many it took, 0 if it takes none now.

        Raises:
            UpstreamError, TimeoutError: as `follow`.
            OSError: the socket is broken.
        """
        self._advance(start)
        sent = self._spool.send(socket_fd, start, count)
        self._advance(start + sent)
        return sent

    def _advance(self, position: int) -> None:
        if self.is_too_slow:
            raise TimeoutError
        if position > self.position:
            self.position = position
            self._spool.note_progress()


def _now() -> float:
    return asyncio.get_running_loop().time()
