"""Bytes of an open file for senders: as a copy, or from the kernel straight to a socket."""

from __future__ import annotations

import os
from typing import Final

_SHORTER: Final = "the file is shorter than it was"


class OpenFile:
    """An open file by its descriptor. It does not close the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, start: int, count: int) -> bytes:
        """Read at most `count` bytes from `start` on. May wait for the disk.

        Raises:
            ConnectionAbortedError: there are none: the file is shorter than announced.
        """
        data = os.pread(self._descriptor, count, start)
        if not data:
            raise ConnectionAbortedError(_SHORTER)
        return data

    def send(self, socket_fd: int, start: int, count: int) -> int:
        """Send at most `count` bytes to a socket; returns how many it took, 0 if it takes none now.

        Raises:
            ConnectionAbortedError: there are none: the file is shorter than announced.
            ConnectionError: the socket is broken.
        """
        try:
            sent = os.sendfile(socket_fd, self._descriptor, start, count)
        except BlockingIOError:
            return 0
        if sent == 0:
            raise ConnectionAbortedError(_SHORTER)
        return sent
