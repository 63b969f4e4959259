"""The bytes of a response: in memory, in a file, or still arriving. A file is read only here, and checked when opened.

What reads a file waits for the disk: call it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Protocol

import msgspec

FileMark = tuple[int, int]
"""Inode and time of change (nanoseconds) of a file."""


class BodyLostError(OSError):
    """The file of a body has other bytes by now than those that were stored or received."""


class Streamed(Protocol):
    """The bytes of a response that is sent while it comes."""

    size: int | None
    """None while unknown."""

    async def follow(self, sent: float) -> int:
        """Wait until more than `sent` bytes are there, or the end; returns how many are.

        Raises:
            GatewayError: no more will come, though the body is incomplete; or its beginning is not there any more.
        """

    def reading(self) -> AbstractContextManager[ArrivingReader]:
        """Read it from the beginning: while the context is open, what it has not read yet stays there."""


class Arriving(Streamed, Protocol):
    """The bytes of a large response while Redash sends it, which announces its size or not."""

    @property
    def is_whole(self) -> bool:
        """Whether it can be read from the beginning, and has not failed."""

    def ends(self, first: int, last: int) -> tuple[bytes, bytes]:
        """Return at most `first` bytes of the beginning and `last` bytes of the end. May wait for the disk."""

    def end(self) -> None:
        """Let readers have the end: the whole body was read, checked and stored."""

    def fail(self) -> None:
        """Signal to readers that the body will stay incomplete; its bytes are deleted."""


class ArrivingReader(Protocol):
    """One reader of a body that is still coming. All methods may raise GatewayError, as `Streamed.follow`."""

    async def follow(self, sent: int) -> int:
        """Wait until more than `sent` bytes have arrived, or the end; returns how many have arrived.

        Raises:
            TimeoutError: this reader is too slow.
        """

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk."""

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send bytes to a socket, as many as it accepts; returns how many, 0 if it accepts none now."""


class Events:
    """Bytes that are sent as they come, for as long as the caller listens: a stream of server-sent events."""

    size = None

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        self.source = source


class Body(msgspec.Struct, frozen=True):
    """The bytes of a response: in memory (`data`) or, if they are many, in a file (`path`).

    With neither, they were too many to be kept: they are only passed on to those who read the spool.
    """

    size: int
    data: bytes | None = None
    path: Path | None = None
    mark: FileMark | None = None
    """Of a stored file, from when its bytes were written or verified. With another mark it has other bytes by now."""
    share: object = None
    """Of the memory that large bodies may take together: given back with the last body that has it."""
    spool: Arriving | None = None
    """Set for bytes that are not stored yet: their file is deleted with the last reference to this."""

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Wrap bytes that are in memory."""
        return cls(size=len(data), data=data)

    def with_data(self, data: bytes) -> Body:
        """Return a body with other bytes that were made from these, in memory that counts as theirs."""
        return Body(size=len(data), data=data, share=self.share)

    def give_up(self) -> None:
        """Delete its file, which is not usable. Errors may refer to this body for long (through their tracebacks)."""
        if self.spool is not None:
            self.spool.fail()

    @property
    def is_kept(self) -> bool:
        """Whether all its bytes are in memory or in a file."""
        return self.data is not None or self.path is not None

    def is_there(self) -> bool:
        """Whether its file, if it is one, is still the same: two microseconds."""
        if self.path is None:
            return True
        try:
            return self._is(os.stat(self.path))
        except OSError:
            return False

    def open(self) -> int:
        """Open its file and return the descriptor.

        Raises:
            OSError: it cannot be opened, or it is not the file that was stored.
        """
        assert self.path is not None  # noqa: S101 - it is a file
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if self._is(os.fstat(file)):
            return file
        os.close(file)
        raise BodyLostError(f"the file of a body has changed: {self.path.name}")

    def _is(self, found: os.stat_result) -> bool:
        return found.st_size == self.size and self.mark in (None, mark_of(found))

    def load(self) -> bytes:
        """Return all bytes."""
        if self.data is not None:
            return self.data
        with os.fdopen(self.open(), "rb") as file:
            return file.read()

    @contextmanager
    def mapped(self) -> Iterator[bytes | mmap]:
        """Give all bytes to read; of a file, what was read need not stay in memory."""
        if self.path is None or not self.size:
            yield self.load()
            return
        with os.fdopen(self.open(), "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield data

    def pieces(self, most: int) -> Iterator[bytes]:
        """Yield all bytes, at most so many at a time; not of a map, whose pages count as memory until it is closed."""
        with BytesIO(self.load()) if self.path is None else os.fdopen(self.open(), "rb") as file:
            while piece := file.read(most):
                yield piece

    def ends(self, first: int, last: int) -> tuple[bytes, bytes]:
        """Return at most `first` bytes of the beginning and `last` bytes of the end."""
        if self.data is not None:
            return self.data[:first], self.data[-last:]
        if self.path is None and self.spool is not None:
            return self.spool.ends(first, last)
        with os.fdopen(self.open(), "rb") as file:
            head = file.read(first)
            file.seek(max(0, self.size - last))
            return head, file.read()


class Part(msgspec.Struct, frozen=True):
    """A range of a body's bytes."""

    whole: Body
    start: int
    size: int

    @property
    def end(self) -> int:
        """The byte behind the last one."""
        return self.start + self.size


def mark_of(found: os.stat_result) -> FileMark:
    """Return the mark of a file."""
    return found.st_ino, found.st_mtime_ns
