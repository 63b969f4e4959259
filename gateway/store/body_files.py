"""Bodies that are files: where they are, how they are completed, how many bytes they take, and when they are unlinked.

Knows nothing of entries or tables. Methods that block on the disk say so; call them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.body import Body, mark_of
from gateway.concurrency.space import Space
from gateway.concurrency.spool_file import SpoolFile
from gateway.model import Clock
from gateway.store.verification import hash_of

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""A discarded file is unlinked after this time: a reader may have its path and be about to open it."""

ORPHAN_SECONDS = 60.0
"""Younger files whose owner is unknown are not orphans."""

RECOUNTS = 3
PROBE_BYTES = 1 << 20

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

NAMES: Final = re.compile(r"(?:[0-9a-f]+\.)?(?P<writer>[0-9a-f]{8})(?:-[0-9]+(?:\.tmp)?|\.own)")
"""The names that `BodyFiles` gives. Files with other names are not ours, wherever they are."""


class BodyFiles:
    """One directory of body files, named `<hex of body id>.<writer>-<number>`; incomplete files end in `.tmp`.

    The writer is a process; it holds a lock on `<writer>.own`, so that others know whether it still lives. Every byte
    counts in `space` from the moment when it is written until its file is unlinked.
    """

    def __init__(self, directory: Path, clock: Clock, space: Space) -> None:
        self.directory = directory
        self.space = space
        self._clock = clock
        # Each file has a name of its own, so that a body stored again under the same id never changes under a reader.
        self._token = secrets.token_hex(4)
        self._count = itertools.count()
        self._trash: deque[tuple[float, int, Path]] = deque()
        self.trash_bytes = 0
        """Bytes of discarded files: they still count in `space`, but will soon be free."""
        self._owner: int | None = None

    def make(self) -> None:
        """Make the directory, readable by this user only, and the sign that its writer lives. Blocks on the disk."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's, which we may use
            self.directory.chmod(0o700)
        self._close_owner()
        sign = self._new_path()
        self._owner = os.open(sign, _NEW, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sign.rename(self._sign(self._token))  # never there without its lock

    def close(self) -> None:
        """Give up the sign that its writer lives. Blocks on the disk."""
        if self._owner is not None:
            with contextlib.suppress(OSError):
                self._sign(self._token).unlink()
        self._close_owner()

    def _close_owner(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            os.close(owner)

    def _sign(self, token: str) -> Path:
        return self.directory / f"{token}.own"

    def create(self) -> SpoolFile:
        """Create a file to write a body to while it arrives. Blocks on the disk. Raises OSError."""
        path = self._new_path()
        try:
            descriptor = os.open(path, _NEW, 0o600)
        except FileNotFoundError:  # somebody has removed the directory
            self.make()
            log.warning("the directory %s was missing; it is made anew", self.directory)
            descriptor = os.open(path, _NEW, 0o600)
        return SpoolFile(descriptor, path, self.space)

    def _new_path(self) -> Path:
        return self.directory / f"{self._token}-{next(self._count)}.tmp"

    def adopt(self, spooled: Path, body_id: bytes, size: int) -> Body:
        """Give a spool file its final name. Its row is written only after `sync_and_hash`. Blocks on the disk."""
        path = self.directory / f"{body_id.hex()}.{self._token}-{next(self._count)}"
        spooled.replace(path)
        return Body(size=size, path=path, mark=mark_of(path.stat()))

    def write(self, body_id: bytes, data: bytes) -> Body:
        """Write `data` to a file with its final name, whatever the limit. Blocks on the disk. Raises OSError."""
        file = self.create()
        file.add(len(data))
        file.write([data], 0)
        return self.adopt(file.path, body_id, len(data))

    def probe(self) -> None:
        """Raise OSError unless large files can be written now. Blocks on the disk."""
        file = self.create()
        file.add(PROBE_BYTES)
        file.write([bytes(PROBE_BYTES)], 0)
        file.sync()

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

    # -- what is not needed any more

    def discard(self, path: Path) -> None:
        """Unlink it after the grace period."""
        try:
            size = path.stat().st_size
        except OSError:
            return
        self.trash_bytes += size
        self._trash.append((self._clock.monotonic() + GRACE_SECONDS, size, path))

    async def empty_trash(self, *, at_once: bool = False) -> None:
        """Unlink files whose grace period is over (`at_once`: all discarded files)."""
        now = self._clock.monotonic()
        due: list[Path] = []
        while self._trash and (at_once or self._trash[0][0] <= now):
            _, size, path = self._trash.popleft()
            self.trash_bytes -= size
            due.append(path)
        if due:
            await asyncio.to_thread(self.unlink, due)

    def unlink(self, paths: list[Path]) -> None:
        """Unlink files at once. Blocks on the disk."""
        for path in paths:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                self.space.add(-size)

    def orphans(self, known: set[str]) -> list[Path]:
        """Return files that are not `known` and whose writer lives no more. Blocks on the disk."""
        youngest = time.time() - ORPHAN_SECONDS  # file times come from the file system, not from the injected clock
        lives = {self._token: True}
        return [
            file.path
            for file in self._files()
            if file.path.name not in known and not self._is_owned(file, youngest, lives)
        ]

    def is_abandoned(self) -> bool:
        """Whether there are only files of ours, whose writers live no more. Blocks on the disk. Raises OSError."""
        with os.scandir(self.directory) as found:
            return len(list(found)) == len(self.orphans(set()))

    def _is_owned(self, file: _Found, youngest: float, lives: dict[str, bool]) -> bool:
        if file.writer not in lives:
            lives[file.writer] = self._lives(file.writer)
        return lives[file.writer] or (file.changed > youngest and not self._sign(file.writer).exists())

    def _lives(self, writer: str) -> bool:
        """Whether the process with that token holds the lock on its sign."""
        try:
            sign = os.open(self._sign(writer), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(sign, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(sign)
        return False

    def _files(self) -> Iterator[_Found]:
        with contextlib.suppress(OSError), os.scandir(self.directory) as found:
            for file in found:
                if name := NAMES.fullmatch(file.name):
                    with contextlib.suppress(OSError):
                        seen = file.stat()
                        yield _Found(Path(file.path), seen.st_size, seen.st_mtime, name["writer"])

    async def recount(self) -> None:
        """Count what is in the directory: others may have removed files. Nothing while files come and go."""
        for _ in range(RECOUNTS):
            before = self.space.taken
            there = await asyncio.to_thread(lambda: sum(file.size for file in self._files()))
            if self.space.taken == before:
                self.space.add(there - before)
                return

    def remove_all(self) -> None:
        """Remove the directory itself. Blocks on the disk."""
        self._trash.clear()
        self._close_owner()
        shutil.rmtree(self.directory, ignore_errors=True)


class _Found(NamedTuple):
    path: Path
    size: int
    changed: float
    writer: str
