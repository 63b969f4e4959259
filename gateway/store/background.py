"""A background loop that survives its own errors: otherwise one bug would silently stop all writing until a restart."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

QUIET_SECONDS = 60.0
"""An error that comes again and again is logged so often."""


async def run_forever(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat `step` until cancelled; log an exception and go on."""
    log_from = -math.inf
    while True:
        try:
            await step()
        except Exception:  # whatever it is, the loop must go on
            if (now := time.monotonic()) >= log_from:
                log.exception("a background step of the store failed")
                log_from = now + QUIET_SECONDS
            await asyncio.sleep(PAUSE_SECONDS)
