"""Bodies that are files: where they lie, how they are made complete, and when they may go.

Knows nothing of entries or tables. Methods that wait for the disk say so and belong in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from gateway.model import Clock

GRACE_SECONDS = 10.0
"""A file that is no longer wanted stays so long: somebody may hold its path and be about to open it."""

ORPHAN_SECONDS = 60.0
"""Younger files are no orphans: a process that waits for our lock writes here as well."""


class BodyFiles:
    """One directory of body files, named `<hex of body id>.<who wrote it>`; those being written end in `.tmp`."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self._clock = clock
        # The name carries the writer, so that bytes kept again under the same id never change beneath a reader.
        self._token = secrets.token_hex(4)
        self._count = itertools.count()
        self._trash: deque[tuple[float, Path]] = deque()

    def make(self) -> None:
        """Make the directory, for our eyes only."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def spool_path(self) -> Path:
        """Return a fresh path to write a body to while it arrives."""
        return self.directory / f"{self._token}-{next(self._count)}.tmp"

    def adopt(self, spooled: Path, body_id: bytes) -> Path:
        """Give a spool file its lasting name. The row that leads to it is written only after `seal`."""
        path = self.directory / f"{body_id.hex()}.{self._token}-{next(self._count)}"
        spooled.replace(path)
        return path

    def write(self, body_id: bytes, data: bytes) -> Path:
        """Write `data` under a temporary name, sync it, give it its lasting name. Waits for the disk."""
        spooled = self.spool_path()
        try:
            with spooled.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            spooled.unlink(missing_ok=True)
            raise
        return self.adopt(spooled, body_id)

    def size(self, name: str) -> int:
        """Length of a file, -1 where there is none."""
        try:
            return (self.directory / name).stat().st_size
        except OSError:
            return -1

    def discard(self, path: Path) -> None:
        """Unlink it when the grace is over."""
        self._trash.append((self._clock.monotonic() + GRACE_SECONDS, path))

    async def empty_trash(self, *, at_once: bool = False) -> None:
        """Unlink what was discarded long enough ago."""
        now = self._clock.monotonic()
        due: list[Path] = []
        while self._trash and (at_once or self._trash[0][0] <= now):
            due.append(self._trash.popleft()[1])
        if due:
            await asyncio.to_thread(_unlink, due)

    def orphans(self, known: set[str]) -> list[Path]:
        """Files of earlier processes that no row leads to. Waits for the disk."""
        youngest = time.time() - ORPHAN_SECONDS  # file times are the file system's, not the injected clock's
        return [path for path, changed in self._foreign() if path.name not in known and changed < youngest]

    def _foreign(self) -> Iterator[tuple[Path, float]]:
        with contextlib.suppress(OSError), os.scandir(self.directory) as found:
            for file in found:
                if self._token not in file.name:
                    with contextlib.suppress(OSError):
                        yield Path(file.path), file.stat().st_mtime

    def remove_all(self) -> None:
        """Remove the directory itself. Waits for the disk."""
        self._trash.clear()
        shutil.rmtree(self.directory, ignore_errors=True)


def seal(path: Path) -> bytes:
    """Sync a file to the disk and return its SHA-256. Waits for the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").digest()


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
