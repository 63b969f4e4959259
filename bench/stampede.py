"""A stampede: a thousand callers request the same run at once and wait for it."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.caller import Caller, body_for, counts
from bench.report import Options, Section, targets
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import INLINE, SLOW

CALLERS = 1_000
TARGETS = {"posts": "1", "executions": "1", "requests": "< 30", "last_ms": "≤ 200 ms"}


@dataclass(frozen=True)
class Stampede:
    """The figures of one stampede."""

    posts: int
    executions: int
    requests: int
    """All requests to the upstream: besides the POSTs mainly ..."""
    polls: int
    definitions: int
    first_ms: float
    last_ms: float
    """From the moment when the upstream reported the end of the run to the first and the last complete response."""


def measure(options: Options, directory: Path) -> Section:
    """Run one stampede each turn, on a gateway that does not know the query yet."""
    turns = []
    for _ in range(options.turns):
        with fixed_upstream(directory) as upstream, gateway(directory, upstream, loop=options.loop) as server:
            Caller.of(server).post(INLINE, 1)  # the first request of a process is slower
            turns.append(_stampede(server, upstream))
    names = ("posts", "executions", "requests", "polls", "definitions")
    most = {name: max(getattr(turn, name) for turn in turns) for name in names}
    requests = f"{most['requests']} ({most['polls']} polls, {most['definitions']} for the definition)"
    times = [turn.last_ms for turn in turns]
    last = f"{statistics.median(times):.0f} ms (worst {max(times):.0f} ms)"
    rows = [
        ("POSTs to the upstream", f"{most['posts']}", TARGETS["posts"]),
        ("executions", f"{most['executions']}", TARGETS["executions"]),
        ("requests to the upstream", requests, TARGETS["requests"]),
        ("last response after the upstream reported the end", last, TARGETS["last_ms"]),
    ]
    return Section(
        "stampede", [asdict(turn) for turn in turns], [targets(f"{CALLERS} callers of one run of 1 s", rows)]
    )


def _stampede(server: Server, upstream: str) -> Stampede:
    before = counts(upstream)
    arrived = asyncio.run(_all_at_once(server))
    after = counts(upstream)
    return Stampede(
        posts=after.posts - before.posts,
        executions=after.executions - before.executions,
        requests=after.requests - before.requests,
        polls=after.polls - before.polls,
        definitions=after.definitions - before.definitions,
        first_ms=(min(arrived) - after.finished_at) * 1000,
        last_ms=(max(arrived) - after.finished_at) * 1000,
    )


async def _all_at_once(server: Server) -> list[float]:
    """Connect all callers, then send all requests; return when each response was complete (monotonic)."""
    loop = asyncio.get_running_loop()
    place = urlsplit(server.url)
    callers = []
    for _ in range(CALLERS):
        _, caller = await loop.create_connection(lambda: _Caller(loop), "127.0.0.1", place.port or 0)
        callers.append(caller)
    body = body_for(1)
    head = [f"POST /api/queries/{SLOW}/results HTTP/1.1", f"Host: {place.netloc}", "Prefer: wait=30"]
    head += [f"{name}: {value}" for name, value in server.headers.items()]
    request = "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
    for caller in callers:
        caller.transport.write(request)
    try:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(caller.arrived for caller in callers))
    finally:
        for caller in callers:
            caller.transport.abort()


class _Caller(asyncio.Protocol):
    """One connection with one request; does as little as possible, because it shares the machine with the gateway."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived: asyncio.Future[float] = loop.create_future()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"}}") and not self.arrived.done():  # only the end of a result has this
            self._note()

    def _note(self) -> None:
        if self._data.startswith(b"HTTP/1.1 200 ") and b'\r\n\r\n{"query_result"' in self._data:
            self.arrived.set_result(time.monotonic())
        else:
            self.arrived.set_exception(SystemExit(f"a caller got {self._data[:500]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.arrived.done():
            self.arrived.set_exception(SystemExit(f"a connection was lost: {exc}"))
