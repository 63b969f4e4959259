"""Hits beside 10,000 idle connections, without and with other work under way."""

from __future__ import annotations

import itertools
import socket
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.caller import body_for
from bench.load import TIMEOUT_SECONDS, connect
from bench.mixed import HITS_PER_SECOND, TARGET, background, hits
from bench.replaying import recorded
from bench.report import Options, Section, Table
from bench.servers import TOKEN, Server, fixed_upstream, gateways
from bench.upstream import KILOBYTE

CONNECTIONS = 10_000
SITUATIONS = ("alone", "idle connections", "idle connections and load")

Times = dict[tuple[str, str], list[list[float]]]
"""Seconds of each hit, turn by turn; the key is the server, and what is beside it."""


def measure(options: Options, directory: Path) -> Section:
    """Measure each gateway alone, beside idle connections, and beside idle connections and load."""
    times: Times = {}
    kilobytes: dict[str, float] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(fixed_upstream(directory))
        for server in stack.enter_context(gateways(directory, upstream, "bench")):
            for _ in range(options.turns):
                for situation, seconds in _turn(server, options, directory, kilobytes):
                    times.setdefault((server.name, situation), []).append(seconds)
    figures = [_figures(*place, turns, kilobytes) for place, turns in times.items()]
    columns = ("", "p50 ms", "p99 ms", "longest ms", "target")
    title = f"{HITS_PER_SECOND} hits a second of 1 KB beside {CONNECTIONS:,} idle connections"
    return Section("idle", figures, [Table(title, columns, _rows(figures))])


def _turn(
    server: Server, options: Options, directory: Path, kilobytes: dict[str, float]
) -> Iterator[tuple[str, list[float]]]:
    yield SITUATIONS[0], hits(server, options.seconds)
    before = server.running.resident_bytes()
    with _idle(server):
        kilobytes.setdefault(server.name, (server.running.resident_bytes() - before) / CONNECTIONS / 1000)
        yield SITUATIONS[1], hits(server, options.seconds)
        with background(server, directory):
            yield SITUATIONS[2], hits(server, options.seconds)


@contextmanager
def _idle(server: Server) -> Iterator[None]:
    """Hold connections that have had one response each; none of them may be closed meanwhile."""
    request = recorded("Chromium", "POST")
    host = urlsplit(server.url).netloc
    sent = b"".join(request.segments(host=host, token=TOKEN, query=KILOBYTE, body=body_for(1)))
    opened: list[socket.socket] = []
    try:
        for _ in range(CONNECTIONS):
            opened.append(connect(server.url))
            _exchange(opened[-1], sent)
        yield
        closed = sum(not _is_open(one) for one in opened)
        if closed:
            raise SystemExit(f"{server.name} has closed {closed} of {CONNECTIONS} idle connections")
    finally:
        for one in opened:
            one.close()


def _exchange(connection: socket.socket, sent: bytes) -> None:
    connection.settimeout(TIMEOUT_SECONDS)
    connection.sendall(sent)
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        received += (data := connection.recv(65_536))
        if not data:
            raise SystemExit(f"closed after {received[:200]!r}")


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True


def _figures(server: str, situation: str, turns: list[list[float]], kilobytes: dict[str, float]) -> dict[str, object]:
    cuts = [statistics.quantiles(times, n=100) for times in turns]
    p50, p99 = (statistics.median(cut[number] for cut in cuts) * 1000 for number in (49, 98))
    longest = max(itertools.chain.from_iterable(turns)) * 1000
    figures = {"server": server, "beside": situation, "p50_ms": p50, "p99_ms": p99, "longest_ms": longest}
    return figures | {"kb_per_connection": kilobytes[server]}


def _rows(figures: list[dict[str, object]]) -> list[tuple[str, ...]]:
    alone = {one["server"]: float(str(one["p99_ms"])) for one in figures if one["beside"] == SITUATIONS[0]}
    rows = []
    for one in figures:
        bound = one["beside"] != SITUATIONS[0]
        target = f"p99 ≤ {TARGET * alone[one['server']]:.2f} ms" if bound else ""
        name = f"{one['server']}, {'beside ' if bound else ''}{one['beside']}"
        rows.append((name, *(f"{one[key]:.2f}" for key in ("p50_ms", "p99_ms", "longest_ms")), target))
    return rows
