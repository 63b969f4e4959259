"""The lock that keeps a second process away from a store's file, and whether that file is still the same."""

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
            with contextlib.suppress(OSError):  # the disk is full; it is only for messages
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

    def is_there(self) -> bool:
        """Whether others still find the file that is locked."""
        return self._fd is not None and _inode(self.path) == os.fstat(self._fd).st_ino

    def release(self) -> None:
        """Release the lock. May be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class FileIdentity:
    """Which file a database was opened from, and which WAL is its own. Methods block on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._inode: int | None = None
        self._wal_inode: int | None = None

    def note(self) -> None:
        """Note that the file was just opened."""
        self._inode, self._wal_inode = _inode(self._path), _inode(self._wal)

    def holds(self) -> bool:
        """Whether the file is still found under its name."""
        if _inode(self._path) != self._inode:
            return False
        self._wal_inode = _inode(self._wal)
        return True

    def remove_wal(self) -> None:
        """Remove the WAL of the file: SQLite would take it for that of the next one."""
        if self._wal_inode is not None and _inode(self._wal) == self._wal_inode:
            self._wal.unlink()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
