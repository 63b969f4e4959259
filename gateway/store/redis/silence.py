"""When a connection counts as silent: a reply is due, and none came for a while in which our own loop was attentive.

A loop that is late cannot tell whether a reply is there: it may wait in the socket. So a tick that comes late counts as
one that came in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

SILENT_SECONDS: Final = 0.045
"""With the tick, at most 50 ms: so long may a request wait for a Redis that does not answer."""

TICK_SECONDS: Final = 0.005
_MOST_A_TICK: Final = 1.5 * TICK_SECONDS


class Watched(Protocol):
    """What is watched: commands that wait, and how many replies came."""

    replies: int

    @property
    def waiting(self) -> int:
        """How many commands have no reply yet."""


class SilenceWatch:
    """Calls `on_silence` once, when one of `wires` was silent for too long; `begin` starts the clock."""

    def __init__(self, wires: list[Watched], on_silence: Callable[[], None]) -> None:
        self._wires = wires
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self._silent = [0.0] * len(wires)
        self._replies = [0] * len(wires)

    def begin(self) -> None:
        """A command was sent: watch until nothing waits any more."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._ticked = loop.time()
            self._silent = [0.0] * len(self._wires)
            self._replies = [wire.replies for wire in self._wires]
            self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        passed = min(loop.time() - self._ticked, _MOST_A_TICK)
        self._ticked = loop.time()
        self._timer = None
        for number, wire in enumerate(self._wires):
            moved = wire.replies != self._replies[number] or not wire.waiting
            self._silent[number] = 0.0 if moved else self._silent[number] + passed
            self._replies[number] = wire.replies
        if max(self._silent) >= SILENT_SECONDS:
            self._on_silence()
        elif any(wire.waiting for wire in self._wires):
            self._timer = loop.call_later(TICK_SECONDS, self._tick)
