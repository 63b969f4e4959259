"""Single flight: one call for many callers. The call is a task of its own, so callers may come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gateway.concurrency.events import Event
from gateway.errors import GatewayError, ServiceUnavailable
from gateway.outcome import Outcome

T = TypeVar("T")


class _Flight(Generic[T]):
    __slots__ = ("began", "done", "error", "ready", "task", "value")

    def __init__(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self.ready = Event()  # a value is offered, or the call has ended
        self.done = Event()
        self.value: T
        self.error: BaseException | None = ServiceUnavailable("The gateway is stopping; try again.", retry_after=1)
        """The error if the call is cancelled, even before its first step; replaced when the call ends."""
        self.task: asyncio.Task[None]


class Flights(Generic[T]):
    """Calls in flight by key. The first caller of a key starts the call, later callers share its value."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def seconds(self, key: Hashable) -> float:
        """Return for how long the call under `key` has been in flight; 0 without one."""
        flight = self._flights.get(key)
        return asyncio.get_running_loop().time() - flight.began if flight is not None else 0.0

    def start(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> bool:
        """Start the call in the background unless one is in flight; returns whether it was started."""
        started = key not in self._flights
        if started:
            self._start(key, call)
        return started

    async def share(
        self,
        key: Hashable,
        call: Callable[[], Awaitable[T]],
        outcome: Outcome | None = None,
        *,
        until_done: bool = False,
    ) -> tuple[T, bool]:
        """Return the value of the call under `key`, and whether this caller joined a call in flight.

        An offered value is returned early; `until_done` waits for the end of the call. An error of the call is raised
        for every caller. `outcome`: where the wait of a caller that has joined is counted.
        """
        flight, loop = self._flights.get(key), asyncio.get_running_loop()
        joined, began = flight is not None, loop.time()
        if flight is None:
            flight = self._start(key, call)
        try:
            await (flight.done if until_done else flight.ready).wait()
        finally:
            if joined and outcome is not None:
                outcome.shared_seconds += loop.time() - began
        if flight.error is not None:
            raise flight.error.copy() if isinstance(flight.error, GatewayError) else flight.error
        return flight.value, joined

    def offer(self, key: Hashable, value: T) -> None:
        """Give all callers of the call under `key` this value now, while the call continues."""
        flight = self._flights[key]
        flight.value, flight.error = value, None
        flight.ready.set()

    def _start(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> _Flight[T]:
        flight: _Flight[T] = _Flight()
        self._flights[key] = flight
        flight.task = asyncio.create_task(self._run(flight, call))
        flight.task.add_done_callback(lambda _: self._ended(key, flight))
        return flight

    async def _run(self, flight: _Flight[T], call: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.value = await call()
            flight.error = None
        except GatewayError as error:
            flight.error = error.copy()
        except Exception as error:
            flight.error = error

    def _ended(self, key: Hashable, flight: _Flight[T]) -> None:
        # Not in `_run`: nothing of it runs if the task is cancelled before its first step.
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.ready.set()
        flight.done.set()

    async def aclose(self) -> None:
        """Cancel every call and wait for their end; for shutting down."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
