"""A stampede: a thousand callers ask for the same run at once, and wait for it."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.caller import Caller, body_for, counts
from bench.report import Options, Section, bars
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import INLINE, SLOW

CALLERS = 1_000
BARS = {"posts": "1", "executions": "1", "requests": "< 30", "last_ms": "≤ 200 ms"}


@dataclass(frozen=True)
class Stampede:
    """What one stampede came to."""

    posts: int
    executions: int
    requests: int
    """Everything that the upstream was asked: beside the POSTs mainly ..."""
    polls: int
    definitions: int
    first_ms: float
    last_ms: float
    """From the upstream's word that the run has finished to the first and the last caller's whole answer."""


def measure(options: Options, directory: Path) -> Section:
    """Run one stampede each turn, on a gateway that knows nothing of the query yet."""
    turns = []
    for _ in range(options.turns):
        with fixed_upstream(directory) as upstream, gateway(directory, upstream, uvloop=options.uvloop) as server:
            Caller.of(server).post(INLINE, 1)  # the first request of a process is slower
            turns.append(_stampede(server, upstream))
    names = ("posts", "executions", "requests", "polls", "definitions")
    most = {name: max(getattr(turn, name) for turn in turns) for name in names}
    asked = f"{most['requests']} ({most['polls']} polls, {most['definitions']} for the definition)"
    times = [turn.last_ms for turn in turns]
    last = f"{statistics.median(times):.0f} ms (worst {max(times):.0f} ms)"
    rows = [
        ("POSTs to the upstream", f"{most['posts']}", BARS["posts"]),
        ("executions", f"{most['executions']}", BARS["executions"]),
        ("requests to the upstream", asked, BARS["requests"]),
        ("last answer after the run was seen to have ended", last, BARS["last_ms"]),
    ]
    return Section("stampede", [asdict(turn) for turn in turns], [bars(f"{CALLERS} callers of one run of 1 s", rows)])


def _stampede(server: Server, upstream: str) -> Stampede:
    before = counts(upstream)
    answered = asyncio.run(_all_at_once(server))
    after = counts(upstream)
    return Stampede(
        posts=after.posts - before.posts,
        executions=after.executions - before.executions,
        requests=after.requests - before.requests,
        polls=after.polls - before.polls,
        definitions=after.definitions - before.definitions,
        first_ms=(min(answered) - after.finished_at) * 1000,
        last_ms=(max(answered) - after.finished_at) * 1000,
    )


async def _all_at_once(server: Server) -> list[float]:
    """Connect everybody, then send everybody's request; returns when each was answered (monotonic)."""
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
            return await asyncio.gather(*(caller.answered for caller in callers))
    finally:
        for caller in callers:
            caller.transport.abort()


class _Caller(asyncio.Protocol):
    """One connection with one request; does as little as it can, as it shares the machine with the gateway."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered: asyncio.Future[float] = loop.create_future()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"}}") and not self.answered.done():  # the end of a result, and of nothing within it
            self._note()

    def _note(self) -> None:
        if self._data.startswith(b"HTTP/1.1 200 ") and b'\r\n\r\n{"query_result"' in self._data:
            self.answered.set_result(time.monotonic())
        else:
            self.answered.set_exception(SystemExit(f"a caller was answered {self._data[:500]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(SystemExit(f"a connection was lost: {exc}"))
