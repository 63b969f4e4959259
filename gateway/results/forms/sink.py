"""Where libraries write files to that leave this process piece by piece: nothing can be read or written again."""

from __future__ import annotations

import io
from typing import Any


class Sink(io.RawIOBase):
    """A file that only grows; `taken` returns what was written since the last time."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._pieces.append(bytes(data))
        self._size += len(self._pieces[-1])
        return len(self._pieces[-1])

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Return how many bytes were written, which is all that can be asked for."""
        if (offset, whence) != (0, io.SEEK_CUR):
            raise io.UnsupportedOperation("what was written cannot be changed")
        return self._size

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
