"""A background loop that survives its own errors: otherwise one bug would silently stop all writing until a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0


async def run_forever(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat `step` until cancelled; log an exception and go on."""
    while True:
        try:
            await step()
        except Exception:  # whatever it is, the loop must go on
            log.exception("a background step of the store failed")
            await asyncio.sleep(PAUSE_SECONDS)
