"""The event loop that `server.event_loop` names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.config.schema import EventLoop


def loop_factory(wanted: EventLoop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, unless asyncio's is wanted or uvloop cannot be imported; None for asyncio's own."""
    if wanted == "asyncio":
        return None
    try:
        import uvloop  # noqa: PLC0415 - not every machine has it, and not every gateway needs it
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def refusal(wanted: EventLoop) -> str | None:
    """Return why this loop cannot be had here, and what to do; None if it can."""
    if wanted == "uvloop" and loop_factory(wanted) is None:
        return 'uvloop cannot be imported; install it (pip install uvloop), or write "auto" or "asyncio"'
    return None
