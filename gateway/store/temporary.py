"""A temporary directory for the large bodies of a store in memory; removed at the end, or by the next process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.concurrency.space import Space
from gateway.concurrency.spool import Spool
from gateway.model import Clock
from gateway.store.body_files import ORPHAN_SECONDS, BodyFiles
from gateway.store.spools import Spools

log = logging.getLogger(__name__)

PREFIX: Final = "redash-gateway-"


def directory_refusal() -> str | None:
    """Return why there can be no temporary directory, None if there can be one. Blocks on the disk."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        return error.strerror or str(error)
    return None


class TemporaryFiles:
    """The files, and the spools that become such files. Where there can be no directory, there are no files."""

    def __init__(self, limit_bytes: int, max_entry_bytes: int, windows: Space, clock: Clock) -> None:
        self.files: BodyFiles | None = None
        self.up = True
        """False: the disk does not work now."""
        self.evict_file: Callable[[], bool] = lambda: False
        """Gives up a stored file; False if there is none."""
        self._space = Space(limit_bytes)
        self._max_entry = max_entry_bytes
        self._windows = windows
        self._clock = clock
        self._spools: Spools | None = None

    async def open(self) -> None:
        """Make the directory, if that is possible; remove those of processes that were killed."""
        try:
            self.files = await asyncio.to_thread(self._make)
        except OSError as error:
            log.warning("no temporary directory: large results are passed on, but not cached (%s)", error)
        self._spools = Spools(self.files, self._windows, self._max_entry, self._make_room, self._report_failure)

    def _make(self) -> BodyFiles:
        parent = Path(tempfile.gettempdir())
        for left in parent.glob(f"{PREFIX}*"):
            self._remove_if_abandoned(left)
        files = BodyFiles(parent / f"{PREFIX}{secrets.token_hex(8)}", self._clock, self._space)
        files.make()
        return files

    def _remove_if_abandoned(self, directory: Path) -> None:
        with contextlib.suppress(OSError):
            found = directory.lstat()
            is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            files = BodyFiles(directory, self._clock, Space(0))
            if is_ours and found.st_mtime < time.time() - ORPHAN_SECONDS and files.is_abandoned():
                files.remove_all()

    async def close(self) -> None:
        """Remove the directory."""
        files, self.files, self._spools = self.files, None, None
        if files is not None:
            await asyncio.to_thread(files.remove_all)

    async def begin(self, size: int | None) -> Spool:
        """Make a spool for a body of the announced length."""
        assert self._spools is not None  # noqa: S101 - `open` comes first
        return await self._spools.begin(size)

    async def sweep(self) -> None:
        """Unlink discarded files; if the disk did not work, try it again."""
        if self.files is None:
            return
        await self.files.empty_trash()
        await self.files.recount()
        if not self.up:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.files.probe)
                self.up = True
                log.info("the temporary directory %s is usable again", self.files.directory)

    async def _make_room(self, count: int) -> None:
        while self.files is not None and not self._space.fits(count):
            await self.files.empty_trash(at_once=True)
            if self._space.fits(count) or not self.evict_file():
                return

    def _report_failure(self, error: OSError) -> None:
        if self.up and self.files is not None:
            self.up = False
            log.warning("the temporary directory %s is not usable: %s", self.files.directory, error)
