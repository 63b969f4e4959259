"""What the sandbox received and did: counters, a log of requests, and a way to wait for them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LOG_SIZE = 10_000


@dataclass(frozen=True)
class LoggedRequest:
    """`path_qs` is the raw target. `status` is 0 if a fault prevented the response."""

    method: str
    path_qs: str
    headers: dict[str, str]
    body: bytes
    status: int
    route: str


class Counters:
    """`posts` counts requests to execute by query id (ad hoc: 0), including joined and cached ones;
    `started` and `finished` count real runs of SQL."""

    def __init__(self) -> None:
        self.log: deque[LoggedRequest] = deque(maxlen=LOG_SIZE)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.reset()

    def reset(self) -> None:
        """Sets all counters to zero and clears the log."""
        self.requests = 0
        self.by_route: Counter[str] = Counter()
        self.posts: Counter[int] = Counter()
        self.started = 0
        self.finished = 0
        self.started_by_query: Counter[int] = Counter()
        self.finished_by_query: Counter[int] = Counter()
        self.jobs = 0
        self.log.clear()

    def request_finished(self, entry: LoggedRequest) -> None:
        """Logs a request with its response status."""
        self.log.append(entry)
        self.notify()

    def request_arrived(self, method: str, route: str) -> None:
        """Counts a request before its response."""
        self.requests += 1
        self.by_route[f"{method} {route}"] += 1
        self.notify()

    def posted(self, query_id: int | None) -> None:
        """Counts a request to execute."""
        self.posts[query_id or 0] += 1
        self.notify()

    def job_queued(self) -> None:
        """Counts a job."""
        self.jobs += 1
        self.notify()

    def execution_started(self, query_id: int | None) -> None:
        """Counts a run of SQL."""
        self.started += 1
        self.started_by_query[query_id or 0] += 1
        self.notify()

    def execution_finished(self, query_id: int | None) -> None:
        """Counts the end of a run, however it ended."""
        self.finished += 1
        self.finished_by_query[query_id or 0] += 1
        self.notify()

    def notify(self) -> None:
        """Wakes the waiters whose condition is true; removes those that were cancelled."""
        for ready, waiter in self._waiters:
            if not waiter.done() and ready():
                waiter.set_result(None)
        self._waiters = [pair for pair in self._waiters if not pair[1].done()]

    async def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Returns when `ready` is true; it is checked at every change of a counter or a job. Raises TimeoutError."""
        if ready():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((ready, waiter))
        async with asyncio.timeout(timeout):
            await waiter

    def as_json(self) -> dict[str, Any]:
        """For the control route."""
        return {
            "requests": self.requests,
            "by_route": dict(self.by_route),
            "posts": dict(self.posts),
            "started": self.started,
            "finished": self.finished,
            "started_by_query": dict(self.started_by_query),
            "finished_by_query": dict(self.finished_by_query),
            "jobs": self.jobs,
        }
