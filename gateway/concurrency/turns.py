"""Turns: which of the waiting runs may enter, where different texts of one key must not meet."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from gateway.errors import ServiceUnavailable


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    text: bytes
    blind: bool
    turn: asyncio.Future[None]


class _Line:
    """The runs of one key that are inside, by text, and those that wait."""

    def __init__(self) -> None:
        self.inside: Counter[bytes] = Counter()
        self.blind: Counter[bytes] = Counter()
        """Those inside that are blind: all of one text, and then nothing else is inside."""
        self.waiting: deque[_Waiter] = deque()

    def keeps_out(self, text: bytes, *, blind: bool) -> bool:
        """Whether a run inside has another text, and one of the two is blind."""
        others = self.inside if blind else self.blind
        return len(others) > (text in others)

    def must_wait(self, text: bytes, *, blind: bool) -> bool:
        """Whether a new run must wait. Blind ones queue, so that none starves; the others pass those that wait."""
        return self.keeps_out(text, blind=blind) or (blind and any(waiter.text != text for waiter in self.waiting))

    def enter(self, text: bytes, *, blind: bool) -> None:
        self.inside[text] += 1
        if blind:
            self.blind[text] += 1

    def leave(self, text: bytes, *, blind: bool) -> None:
        self.inside[text] -= 1
        self.blind[text] -= blind
        self.inside, self.blind = +self.inside, +self.blind

    def admit(self) -> None:
        """Let those in that need not wait any more."""
        left: deque[_Waiter] = deque()
        for waiter in self.waiting:
            if waiter.turn.done():  # it gave up
                continue
            behind = waiter.blind and any(other.text != waiter.text for other in left)
            if behind or self.keeps_out(waiter.text, blind=waiter.blind):
                left.append(waiter)
            else:
                self.enter(waiter.text, blind=waiter.blind)
                waiter.turn.set_result(None)
        self.waiting = left


class TurnsByText:
    """Keeps runs of a key apart whose texts differ, where one of them is blind.

    Redash gives some different texts the same hash, and joins their runs (CONTRACT 7). A run is blind if its response
    would not show whose rows it carries. All others need no turn among themselves.
    """

    def __init__(self) -> None:
        self._lines: dict[bytes, _Line] = {}

    @property
    def waiting(self) -> int:
        """The number of runs that wait now."""
        return sum(len(line.waiting) for line in self._lines.values())

    def would_wait(self, key: bytes, text: bytes, *, blind: bool) -> bool:
        """Whether `hold` would wait now."""
        line = self._lines.get(key)
        return line is not None and line.must_wait(text, blind=blind)

    @asynccontextmanager
    async def hold(self, key: bytes, text: bytes, *, blind: bool, timeout: float) -> AsyncIterator[None]:
        """Be inside with `text`.

        Raises (on entering):
            ServiceUnavailable: no turn came within the timeout (seconds).
        """
        line = self._lines.setdefault(key, _Line())
        if line.must_wait(text, blind=blind):
            await self._wait(key, line, text, blind=blind, timeout=timeout)
        else:
            line.enter(text, blind=blind)
        try:
            yield
        finally:
            self._leave(key, line, text, blind=blind)

    async def _wait(self, key: bytes, line: _Line, text: bytes, *, blind: bool, timeout: float) -> None:
        waiter = _Waiter(text, blind, asyncio.get_running_loop().create_future())
        line.waiting.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter.turn
        except TimeoutError:
            self._give_up(key, line, waiter)
            raise no_turn() from None
        except asyncio.CancelledError:
            self._give_up(key, line, waiter)
            raise

    def _give_up(self, key: bytes, line: _Line, waiter: _Waiter) -> None:
        if waiter.turn.cancelled():
            self._settle(key, line)  # others may have waited behind it
        else:  # it got its turn in the same moment
            self._leave(key, line, waiter.text, blind=waiter.blind)

    def _leave(self, key: bytes, line: _Line, text: bytes, *, blind: bool) -> None:
        line.leave(text, blind=blind)
        self._settle(key, line)

    def _settle(self, key: bytes, line: _Line) -> None:
        line.admit()
        if not line.inside and not line.waiting:
            self._lines.pop(key, None)


def no_turn() -> ServiceUnavailable:
    """Return the error of a run whose turn does not come in time."""
    return ServiceUnavailable(
        "Redash is busy with another SQL text that it takes for this one; try again soon.", retry_after=5
    )
