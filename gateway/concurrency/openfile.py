"""Bytes of an open file, for those who send them: with a copy, or from the kernel straight to a socket."""

from __future__ import annotations

import os
from typing import Final

_SHORTER: Final = "the file is shorter than it was"


class OpenFile:
    """An open file by its descriptor; somebody else closes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, start: int, count: int) -> bytes:
        """Read so many bytes from `start` on, or less. May wait for the disk.

        Raises:
            ConnectionAbortedError: there are none: it is shorter than was said.
        """
        data = os.pread(self._descriptor, count, start)
        if not data:
            raise ConnectionAbortedError(_SHORTER)
        return data

    def send(self, plug: int, start: int, count: int) -> int:
        """Send bytes to a socket, as many as it takes; returns how many that was, 0 where it takes none now.

        Raises:
            ConnectionAbortedError: there are none: it is shorter than was said.
            ConnectionError: the socket is broken.
        """
        try:
            sent = os.sendfile(plug, self._descriptor, start, count)
        except BlockingIOError:
            return 0
        if sent == 0:
            raise ConnectionAbortedError(_SHORTER)
        return sent
