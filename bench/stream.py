"""Large results: how much the gateway's memory grows while 100 MB pass through it."""

from __future__ import annotations

import re
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.caller import Caller, body_for
from bench.report import Options, Section, targets
from bench.servers import Server, fixed_upstream, gateway
from bench.upstream import INLINE, LARGE, LARGE_BYTES
from gateway.config.schema import EventLoop

MB = 10**6
SLOW_RATE = 5 * MB
"""Bytes per second that the slow one of ten callers reads ..."""
SLOW_SECONDS = 3.0
"""... for this long."""
TOGETHER = 10
BEGINNING_BYTES = 100
"""The first bytes of a body, which contain the result's id."""


@dataclass(frozen=True)
class Growth:
    """Growth of the gateway's resident memory up to its peak, and how long the callers took."""

    callers: int
    fetched_mb: float
    """While the result arrived from the upstream and was forwarded to the waiting callers."""
    by_id_mb: float
    """While it was read again by its id."""
    seconds: float


def measure(options: Options, directory: Path) -> Section:
    """One caller, then ten at once, one of them slow; each time with a newly started gateway."""
    turns = [
        _once(callers, directory, loop=options.loop) for _ in range(min(options.turns, 3)) for callers in (1, TOGETHER)
    ]
    title = f"Growth of resident memory while a result of {LARGE_BYTES // MB} MB passes through"
    rows = [_row(1, "one caller", "≤ 16 MB", turns), _row(TOGETHER, "ten at once, one of them slow", "≤ 64 MB", turns)]
    return Section("stream", [asdict(turn) for turn in turns], [targets(title, rows)])


def _row(callers: int, name: str, target: str, turns: list[Growth]) -> tuple[str, str, str]:
    mine = [turn for turn in turns if turn.callers == callers]
    fetched = statistics.median(turn.fetched_mb for turn in mine)
    by_id = statistics.median(turn.by_id_mb for turn in mine)
    seconds = statistics.median(turn.seconds for turn in mine)
    return name, f"{fetched:.1f} MB while arriving, {by_id:.1f} MB by id; {seconds:.1f} s", target


def _once(callers: int, directory: Path, *, loop: EventLoop) -> Growth:
    with fixed_upstream(directory) as upstream, gateway(directory, upstream, loop=loop) as server:
        Caller.of(server).post(INLINE, 1)
        began = time.monotonic()
        body = body_for(1)
        head = f"POST /api/queries/{LARGE}/results HTTP/1.1\r\nPrefer: wait=50\r\nContent-Length: {len(body)}\r\n"
        fetched, beginning = _growth(server, callers, head, body)
        result_id = re.search(rb'\{"query_result": \{"id": (\d+)', beginning)
        if result_id is None:
            raise SystemExit(f"the response to the large query is {beginning[:500]!r}")
        by_id, _ = _growth(server, callers, f"GET /api/query_results/{result_id[1].decode()}.json HTTP/1.1\r\n", b"")
        return Growth(callers, fetched / MB, by_id / MB, time.monotonic() - began)


def _growth(server: Server, callers: int, head: str, body: bytes) -> tuple[int, bytes]:
    """Send the request from all callers at once; return the growth in bytes and the first response's beginning."""
    place = urlsplit(server.url)
    fields = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    request = f"{head}Host: {place.netloc}\r\n{fields}\r\n".encode() + body
    server.running.reset_peak()
    before = server.running.resident_bytes()
    with ThreadPoolExecutor(callers) as pool:
        slow = [callers > 1 and number == 0 for number in range(callers)]
        beginnings = list(pool.map(lambda slowly: _read(place.port or 0, request, slowly=slowly), slow))
    return server.running.peak_bytes() - before, beginnings[0]


def _read(port: int, request: bytes, *, slowly: bool) -> bytes:
    """Read a response of the announced length at full speed, or slowly at first; return its beginning."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        beginning = b""
        while len(beginning.partition(b"\r\n\r\n")[2]) < BEGINNING_BYTES and (data := connection.recv(65_536)):
            beginning += data
        head, _, rest = beginning.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise SystemExit(f"a caller got {beginning[:500]!r}")
        left = int(length[1]) - len(rest)
        until = time.monotonic() + (SLOW_SECONDS if slowly else 0.0)
        buffer = bytearray(MB)
        while left > 0:
            got = connection.recv_into(buffer, min(left, MB))
            if got == 0:
                raise SystemExit(f"a response broke off, {left} bytes are missing")
            left -= got
            if time.monotonic() < until:
                time.sleep(got / SLOW_RATE)
        return beginning
