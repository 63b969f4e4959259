"""Bodies that are files: where they are, how they are completed, and when they are unlinked.

Knows nothing of entries or tables. Methods that block on the disk say so; call them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from gateway.body import mark_of
from gateway.model import Body, Clock
from gateway.store.verification import hash_of

GRACE_SECONDS = 10.0
"""A discarded file is unlinked after this time: a reader may have its path and be about to open it."""

ORPHAN_SECONDS = 60.0
"""Younger files are not orphans: a process that waits for our lock writes to this directory too."""


NAMES: Final = re.compile(r"[0-9a-f]+\.[0-9a-f]{8}-[0-9]+|[0-9a-f]{8}-[0-9]+\.tmp")
"""The names that `BodyFiles` gives. Files with other names are not ours, wherever they are."""


class BodyFiles:
    """One directory of body files, named `<hex of body id>.<writer>-<number>`; incomplete files end in `.tmp`."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self._clock = clock
        # Each file has a name of its own, so that a body stored again under the same id never changes under a reader.
        self._token = secrets.token_hex(4)
        self._count = itertools.count()
        self._trash: deque[tuple[float, Path]] = deque()

    def make(self) -> None:
        """Make the directory, readable by this user only."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's, which we may use
            self.directory.chmod(0o700)

    def spool_path(self) -> Path:
        """Return a new path to write a body to while it arrives."""
        return self.directory / f"{self._token}-{next(self._count)}.tmp"

    def adopt(self, spooled: Path, body_id: bytes, size: int) -> Body:
        """Give a spool file its final name. Its row is written only after `sync_and_hash`. Blocks on the disk."""
        path = self.directory / f"{body_id.hex()}.{self._token}-{next(self._count)}"
        spooled.replace(path)
        return Body(size=size, path=path, mark=mark_of(path.stat()))

    def write(self, body_id: bytes, data: bytes) -> Body:
        """Write `data` under a temporary name, sync it, give it its final name. Blocks on the disk."""
        spooled = self.spool_path()
        try:
            with self._open_new(spooled) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            spooled.unlink(missing_ok=True)
            raise
        return self.adopt(spooled, body_id, len(data))

    def _open_new(self, path: Path) -> BinaryIO:
        try:
            return path.open("xb")
        except FileNotFoundError:  # somebody has removed the directory
            self.make()
            return path.open("xb")

    def find(self, name: str) -> Body | None:
        """Return the file with that name as it is now, None if there is none. Blocks on the disk."""
        path = self.directory / name
        try:
            found = path.stat()
        except OSError:
            return None
        return Body(size=found.st_size, path=path, mark=mark_of(found))

    def sync_and_hash(self, body: Body) -> bytes:
        """Sync a file to the disk and return its SHA-256. Blocks on the disk. Raises OSError as `Body.open`."""
        file = body.open()
        try:
            os.fsync(file)
        finally:
            os.close(file)
        return hash_of(body)

    def discard(self, path: Path) -> None:
        """Unlink it after the grace period."""
        self._trash.append((self._clock.monotonic() + GRACE_SECONDS, path))

    async def empty_trash(self, *, at_once: bool = False) -> None:
        """Unlink files whose grace period is over (`at_once`: all discarded files)."""
        now = self._clock.monotonic()
        due: list[Path] = []
        while self._trash and (at_once or self._trash[0][0] <= now):
            due.append(self._trash.popleft()[1])
        if due:
            await asyncio.to_thread(_unlink, due)

    def orphans(self, known: set[str]) -> list[Path]:
        """Return files of earlier processes that are not `known`. Blocks on the disk."""
        youngest = time.time() - ORPHAN_SECONDS  # file times come from the file system, not from the injected clock
        return [path for path, changed in self._earlier() if path.name not in known and changed < youngest]

    def _earlier(self) -> Iterator[tuple[Path, float]]:
        with contextlib.suppress(OSError), os.scandir(self.directory) as found:
            for file in found:
                if NAMES.fullmatch(file.name) and self._token not in file.name:
                    with contextlib.suppress(OSError):
                        yield Path(file.path), file.stat().st_mtime

    def remove_all(self) -> None:
        """Remove the directory itself. Blocks on the disk."""
        self._trash.clear()
        shutil.rmtree(self.directory, ignore_errors=True)


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
