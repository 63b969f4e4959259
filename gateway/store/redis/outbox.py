"""Messages that Redis must get, at the latest when it is back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.scripts import Argument, Script

MOST_WAITING: Final = 10_000
"""Beyond it the oldest are dropped: other gateways notice a little later."""


class Outbox:
    """Runs scripts whose replies nobody needs."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: deque[tuple[Script, tuple[Argument, ...]]] = deque(maxlen=MOST_WAITING)

    async def send(self, script: Script, *arguments: Argument) -> None:
        """Run a script now or, if Redis fails, later."""
        try:
            await self._link.call(script, *arguments)
        except UnavailableError:
            self._waiting.append((script, arguments))
        except RefusedError:
            return

    async def catch_up(self) -> None:
        """Send what is waiting: Redis is back."""
        waiting, self._waiting = self._waiting, deque(maxlen=MOST_WAITING)
        await asyncio.gather(*(self.send(script, *arguments) for script, arguments in waiting))
