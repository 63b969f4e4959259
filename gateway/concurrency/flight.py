"""One call for many callers. A flight is a task of its own: callers come and go, the call goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gateway.errors import ServiceUnavailable

T = TypeVar("T")


class Event:
    """Something that happens once, and whoever waits for it.

    Unlike `asyncio.Event` (a deque) and `asyncio.shield` (a callback list), a waiter leaves in constant time, so that
    ten thousand that hang up at once cost no quadratic time.
    """

    __slots__ = ("_waiters", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiters: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        """Wake everybody; safe to call again."""
        self.is_set = True
        self.release()

    async def wait(self) -> None:
        """Return when it has happened."""
        if self.is_set:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def release(self) -> None:
        """Send those home who wait now, though it has not happened: `wait` returns to them."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def __len__(self) -> int:
        return len(self._waiters)


async def wait_for(event: Event, seconds: float) -> None:
    """Return when it has happened, or after so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class _Call(Generic[T]):
    __slots__ = ("done", "error", "ready", "task", "value")

    def __init__(self) -> None:
        self.ready = Event()  # something is offered, or it has ended
        self.done = Event()
        self.value: T
        self.error: BaseException | None = ServiceUnavailable("The gateway is stopping; try again.", retry_after=1)
        """Until the call has ended: what there is to say if it is cancelled, even before it began."""
        self.task: asyncio.Task[None]


class Flights(Generic[T]):
    """Calls in the air, by key. The first caller of a key starts the call, the others share what it brings."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call[T]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def start(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> bool:
        """Start the call unless one is in the air; nobody waits. Returns whether it was started."""
        started = key not in self._calls
        if started:
            self._start(key, call)
        return started

    async def share(
        self, key: Hashable, call: Callable[[], Awaitable[T]], *, to_the_end: bool = False
    ) -> tuple[T, bool]:
        """Return what the call under `key` brings or offers, and whether this caller joined one that was in the air.

        `to_the_end` waits for what it brings.

        An error of the call is raised for everybody who shares it.
        """
        flight = self._calls.get(key)
        joined = flight is not None
        if flight is None:
            flight = self._start(key, call)
        await (flight.done if to_the_end else flight.ready).wait()
        if flight.error is not None:
            raise flight.error
        return flight.value, joined

    def offer(self, key: Hashable, value: T) -> None:
        """Let those who share the call under `key` have this already, while it goes on."""
        flight = self._calls[key]
        flight.value, flight.error = value, None
        flight.ready.set()

    def _start(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> _Call[T]:
        flight: _Call[T] = _Call()
        self._calls[key] = flight
        flight.task = asyncio.create_task(self._run(flight, call))
        flight.task.add_done_callback(lambda _: self._finished(key, flight))
        return flight

    async def _run(self, flight: _Call[T], call: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.value = await call()
            flight.error = None
        except Exception as error:
            flight.error = error

    def _finished(self, key: Hashable, flight: _Call[T]) -> None:
        # Not in `_fly`: a task that is cancelled before its first step runs nothing of it.
        if self._calls.get(key) is flight:
            del self._calls[key]
        flight.ready.set()
        flight.done.set()

    async def aclose(self) -> None:
        """Cancel every call and wait until all have ended; for shutting down."""
        tasks = [flight.task for flight in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
