"""The disk for spools: their files in a store's directory, and whether there is room for more bytes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.concurrency.space import Space
from gateway.concurrency.spool import Spool
from gateway.concurrency.spool_file import SpoolFile
from gateway.store.body_files import BodyFiles


class Spools:
    """Makes spools; only in memory if there are no files.

    A body up to the entry limit may take the place of others; a larger one takes only room that is free.
    """

    def __init__(
        self,
        files: BodyFiles | None,
        memory: Space,
        max_entry_bytes: int,
        make_room: Callable[[int], Awaitable[None]],
        report_failure: Callable[[OSError], None],
    ) -> None:
        self._files = files
        self._memory = memory
        self._max_entry = max_entry_bytes
        self._make_room = make_room
        self._report_failure = report_failure

    async def begin(self, size: int | None) -> Spool:
        """Make a spool for a body of the announced length."""
        return await Spool.begin(self, self._memory, size)

    async def create(self) -> SpoolFile | None:
        """See `Disk`."""
        if self._files is None:
            return None
        try:
            return await asyncio.to_thread(self._files.create)
        except OSError as error:
            self._report_failure(error)
            return None

    async def append(self, file: SpoolFile, size: int, pieces: list[bytes]) -> bool:
        """See `Disk`."""
        count = sum(map(len, pieces))
        if not file.take(count):
            if size + count > self._max_entry:
                return False
            await self._make_room(count + file.margin)
            if not file.take(count):
                return False
        try:
            await asyncio.to_thread(file.write, pieces, size)
        except OSError as error:
            self._report_failure(error)
            return False
        return True
