"""A body that is made of parts while it is sent."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.body import Body
from gateway.concurrency.open_file import OpenFile

_AT_ONCE: Final = 64 * 1024


class Assembled:
    """Parts in their order, for one reader: each is made when the reader wants it, and kept until it was read."""

    size: int | None = None
    """Bytes; None until all parts were made."""

    def __init__(self, parts: AsyncIterator[Body], close: Callable[[], None]) -> None:
        """`close` is called when the reader ends or leaves."""
        self._parts = parts
        self._close = close
        self._unread: deque[tuple[int, Body]] = deque()  # with the position of its first byte
        self._end = 0

    async def follow(self, sent: float) -> int:
        """Return how many bytes there are, more than `sent` unless that is the end. What was sent is dropped.

        Raises:
            GatewayError: as the parts do.
        """
        while self._unread and self._unread[0][0] + self._unread[0][1].size <= sent:
            self._unread.popleft()
        while self._end <= sent and self.size is None:
            part = await anext(self._parts, None)
            if part is None:
                self.size = self._end
            elif part.size:
                self._unread.append((self._end, part))
                self._end += part.size
        return self._end

    @contextmanager
    def reading(self) -> Iterator[Assembled]:
        """Read it, once."""
        try:
            yield self
        finally:
            self._close()
            self._unread.clear()

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk.

        Raises:
            OSError: the file of a part was removed or changed.
        """
        first, part = next((at, body) for at, body in self._unread if at <= start < at + body.size)
        if part.data is not None:
            return part.data[start - first : start - first + count]
        file = part.open()
        try:
            return OpenFile(file).read(start - first, count)
        finally:
            os.close(file)

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send at most `count` bytes to a socket; returns how many it took, 0 if it takes none now.

        Raises:
            OSError: as `read`, or the socket is broken.
        """
        try:
            return os.write(socket_fd, self.read(start, min(count, _AT_ONCE)))
        except BlockingIOError:
            return 0
