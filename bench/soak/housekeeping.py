"""What runs beside a soak: the disk is measured all the time, and Redash does not keep old results for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from bench.soak.leftovers import watch_disk
from bench.soak.stage import Stage

KEPT_SECONDS = 700
"""More than any age that callers accept: Redash keeps results for a week, and makes no file of one that is gone."""
_EVERY_SECONDS = 5.0


@contextlib.asynccontextmanager
async def housekeeping(stage: Stage) -> AsyncIterator[None]:
    """Do both while the block runs."""
    tasks = [asyncio.create_task(watch_disk(stage, stage.journal)), asyncio.create_task(_clean(stage))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


async def _clean(stage: Stage) -> None:
    """Remove old results from Redash, except the newest of each text; their digests stay."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        for old in await asyncio.to_thread(stage.queries.made.forget_before, time.time() - KEPT_SECONDS):
            if old.id in stage.sandbox.database.results:
                stage.sandbox.database.remove_result(old.id)
