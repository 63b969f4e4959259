"""The lock that keeps a second process away from a store's file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class FileLock:
    """`flock` on a separate file, never unlinked: otherwise two processes could lock two files of the same name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it was. Raises OSError if the file cannot be made."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(PermissionError):  # another user's file, which we may use
            os.fchmod(fd, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def holder(self) -> str:
        """Return the id of the process that took it last, for messages."""
        with contextlib.suppress(OSError):
            return self.path.read_text()[:20] or "unknown"
        return "unknown"

    def release(self) -> None:
        """Release the lock. May be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
