"""The recorded requests of real clients as requests of the benchmark: the same bytes to every server."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from support.client_requests import ClientRequest, client_requests

from bench import load, wrk
from bench.report import Options
from bench.servers import TOKEN, Server

TRACEPARENT = "traceparent: 00-4bf92f3577b34da6%016x-%016x-01"
REQUEST_ID = "X-Request-ID: bench-%d"
CLOSE = "Connection: close"
WARM_UP_REQUESTS = 6
"""Requests of one kind before it is measured: they fill the caches; from the second one on the fast path knows it."""

Figures = dict[str, object]


@dataclass(frozen=True)
class Replayed:
    """A request of a client for one result, as it is sent to every server."""

    request: ClientRequest
    size: str
    query_id: int
    field: str = ""
    """One more field. With `%d` or `%x` in it, its value is another one in each request."""
    own_generator: bool = False
    """Not wrk, even where it could send this."""

    @property
    def name(self) -> str:
        shown = self.field.partition(":")[0] if "%" in self.field else self.field
        return f"{self.request.name}, {shown}" if shown else self.request.name

    @property
    def encoding(self) -> str:
        """How the response is sent."""
        accepted = [value for name, value in self.request.fields if name.lower() == "accept-encoding"]
        return "gzip" if "gzip" in "".join(accepted) else "plain"

    def segments(self, server: Server, number: int | None = None) -> list[bytes]:
        """Return the bytes for a server, as they are cut; without a `number`, a field with `%` is left out."""
        host = urlsplit(server.url).netloc or "localhost"
        first, *others = self.request.segments(host=host, token=TOKEN, query=self.query_id)
        if self.field and (number is not None or "%" not in self.field):
            field = self.field.replace("%016x", f"{number or 0:016x}").replace("%d", str(number))
            first = first.replace(b"\r\n\r\n", f"\r\n{field}\r\n\r\n".encode(), 1)
        return [first, *others]

    def warm(self, server: Server) -> Figures:
        """Send several requests, each over a connection of its own; return size and encoding of the last response."""
        for number in range(WARM_UP_REQUESTS):
            line = load.Line(server.url, self.segments(server, number))
            line.ask()
            line.socket.close()
        if b"X-Cache" in line.head and b"X-Cache: HIT" not in line.head:  # only nginx sends it
            raise SystemExit(f"{server.name} does not cache {self.name}")
        encoding = re.search(rb"(?i)\r\ncontent-encoding: (\w+)", line.head)
        return {"sent_bytes": line.body_bytes, "sent_encoding": encoding[1].decode() if encoding else "plain"}

    def turn(self, server: Server, seconds: float, directory: Path, connections: int = wrk.CONNECTIONS) -> wrk.Turn:
        """Load the server for some seconds, with wrk if it can send this."""
        segments = self.segments(server)
        if len(segments) > 1 or self.own_generator:
            return load.turn(server.url, segments, server.running, seconds)
        lua = wrk.with_field(segments[0], self.field) if "%" in self.field else wrk.exactly(segments[0])
        return wrk.turn(lua, server.url, server.running, seconds, directory, connections=connections)


def recorded(client: str, kind: str) -> ClientRequest:
    """Return the request of a client by its name and kind."""
    return next(one for one in client_requests() if (one.client, one.kind) == (client, kind))


def in_turns(
    replayed: Replayed, servers: list[Server], options: Options, directory: Path, connections: int = wrk.CONNECTIONS
) -> list[Figures]:
    """Measure one request on every server, in turns; return the medians, one row for each server."""
    sent = {server.name: replayed.warm(server) for server in servers}
    taken: dict[str, list[wrk.Turn]] = {name: [] for name in sent}
    for _ in range(options.turns):
        for server in servers:
            taken[server.name].append(replayed.turn(server, options.seconds, directory, connections))
    labels = {"request": replayed.name, "size": replayed.size, "encoding": replayed.encoding}
    return [{**labels, "server": name, **sent[name], **medians(taken[name])} for name in taken]


def medians(turns: list[wrk.Turn]) -> dict[str, float]:
    """Return the median of each figure."""
    rows = [asdict(turn) for turn in turns]
    return {f.name: median(row[f.name] for row in rows) for f in fields(wrk.Turn)}
