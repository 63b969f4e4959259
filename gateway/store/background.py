"""A loop that outlives its own mistakes: without it one bug would silently end all writing until the next start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0


async def run_forever(step: Callable[[], Awaitable[None]]) -> None:
    """Do `step` again and again until cancelled."""
    while True:
        try:
            await step()
        except Exception:  # whatever it is, the next step must come
            log.exception("a background step of the store failed")
            await asyncio.sleep(PAUSE_SECONDS)
