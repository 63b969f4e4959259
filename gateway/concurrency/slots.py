"""Slots: a limit on what runs at the same time, shared fairly between owners."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import ServiceUnavailable, UpstreamTimeout


class FairSlots:
    """`size` slots. Owners take turns in the queue, so no owner starves another."""

    def __init__(
        self,
        size: int,
        *,
        timeout: float,
        queue: int = 10_000,
        busy: str = "Redash is busy",
        is_stuck: Callable[[float], bool] = lambda since: False,
    ) -> None:
        """`busy` says in an error what takes the slots, `is_stuck` whether Redash has not answered since then (the
        loop's clock)."""
        self.size = size
        self.timeout = timeout
        self._queue = queue
        self._busy = busy
        self._is_stuck = is_stuck
        self._taken = 0
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def taken(self) -> int:
        """The number of slots in use."""
        return self._taken

    @property
    def queued(self) -> int:
        """The number of tasks that wait for a slot."""
        return sum(len(line) for line in self._waiting.values())

    def free(self) -> bool:
        """Whether the next `hold` would not wait."""
        return self._taken < self.size and not self._waiting

    def hold(self, owner: str) -> Slot:
        """Return a context manager that holds a slot.

        Raises (on entering):
            ServiceUnavailable: no slot became free within the timeout, or the queue is full.
            UpstreamTimeout: no slot became free, because Redash hangs.
        """
        return Slot(self, owner)

    @contextmanager
    def exceed(self) -> Iterator[None]:
        """Hold a slot at once, though none may be free: for what has begun already. Others wait the longer."""
        self._taken += 1
        try:
            yield
        finally:
            self.release()

    async def acquire(self, owner: str) -> None:
        """Take a slot, when one is free; the caller must `release` it."""
        if self.free():
            self._taken += 1
        else:
            await self._wait(owner)

    def release(self) -> None:
        """Give a slot back; the next in the queue gets it."""
        self._taken -= 1
        self._wake()

    async def _wait(self, owner: str) -> None:
        if self.queued >= self._queue:
            raise ServiceUnavailable(f"{self._busy}, and the queue is full; try again soon.", retry_after=5)
        turn = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(owner, deque())
        line.append(turn)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.timeout):
                await turn
        except TimeoutError:
            self._return_slot(turn)
            if self._is_stuck(began):
                raise UpstreamTimeout("Redash does not answer: no request got a response for a while.") from None
            raise ServiceUnavailable(
                f"{self._busy}: no slot became free within upstream.queue_timeout; try again soon.", retry_after=5
            ) from None
        except asyncio.CancelledError:
            self._return_slot(turn)
            raise
        finally:
            self._leave(owner, turn)

    def _return_slot(self, turn: asyncio.Future[None]) -> None:
        # The slot may have been assigned in the moment in which the waiter gave up.
        if turn.done() and not turn.cancelled():
            self._taken -= 1
            self._wake()

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(owner)
        if line is None:
            return
        if turn in line:
            line.remove(turn)
        if not line:
            del self._waiting[owner]

    def _wake(self) -> None:
        while self._waiting and self._taken < self.size:
            owner, line = next(iter(self._waiting.items()))
            turn = line.popleft()
            del self._waiting[owner]
            if line:
                self._waiting[owner] = line  # at the end: the next turn belongs to another owner
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


class Slot:
    """One of `FairSlots`, held from entering to leaving."""

    __slots__ = ("_owner", "_slots")

    def __init__(self, slots: FairSlots, owner: str) -> None:
        self._slots = slots
        self._owner = owner

    async def __aenter__(self) -> None:
        await self._slots.acquire(self._owner)

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
