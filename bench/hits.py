"""Hits: the cost of a response from the cache, for the gateway, nginx, Varnish and a bare aiohttp handler, in turns."""

from __future__ import annotations

import http.client
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench import opponents, wrk
from bench.nginx import nginx
from bench.ratios import number
from bench.replaying import WARM_UP_REQUESTS, medians
from bench.report import Options, Section, Table
from bench.samples import POST_BODY, Samples, samples
from bench.servers import LOOPS, Server, gateway, gateways

OURS = f"gateway, {LOOPS[0]}"


@dataclass(frozen=True)
class Case:
    """One kind of request."""

    size: str
    query_id: int
    encoding: str
    method: str

    @property
    def name(self) -> str:
        return f"{self.size}, {self.encoding}, {self.method}"

    @property
    def body(self) -> str:
        return POST_BODY if self.method == "POST" else ""

    def path(self, server: Server) -> str:
        if server.own_paths:
            return "/" + self.size.replace(" ", "_")
        return f"/api/queries/{self.query_id}/results" + (".json" if self.method == "GET" else "")

    def headers(self, server: Server) -> dict[str, str]:
        return {**server.headers, **({"Accept-Encoding": "gzip"} if self.encoding == "gzip" else {})}


def measure(options: Options, directory: Path) -> Section:
    """Send every kind of request to every installed server."""
    figures: list[dict[str, object]] = []
    with ExitStack() as stack:
        found = stack.enter_context(samples(directory))
        servers = _start(stack, directory, found)
        for size in options.sizes:
            for encoding in ("plain", "gzip"):
                for method in ("GET", "POST"):
                    figures += _side_by_side(Case(size, found.ids[size], encoding, method), servers, options, directory)
    return Section("hits", figures, _tables(figures), _short_tables(figures))


def _start(stack: ExitStack, directory: Path, found: Samples) -> list[Server]:
    """Start every installed server."""
    upstream, key = found.url, found.key
    plain, *on_other_loops = stack.enter_context(gateways(directory, upstream, key))
    logged = stack.enter_context(gateway(directory, upstream, key, access_log=True))
    return [
        plain,
        logged,
        plain.normal_path(),
        logged.normal_path(),
        *on_other_loops,
        *stack.enter_context(nginx(directory, upstream, key)),
        *stack.enter_context(opponents.varnish(directory, upstream, key)),
        *stack.enter_context(opponents.bare(directory, found.bodies)),
    ]


def _side_by_side(case: Case, servers: list[Server], options: Options, directory: Path) -> list[dict[str, object]]:
    """Measure one kind of request on every server that supports it, in turns; return the medians."""
    measured = [s for s in servers if case.method in s.methods and case.encoding in s.encodings]
    sent = {server.name: warm(case, server) for server in measured}
    turns: dict[str, list[wrk.Turn]] = {server.name: [] for server in measured}
    for _ in range(options.turns):
        for server in measured:
            lua = wrk.script(case.method, case.headers(server), case.body)
            url = server.url + case.path(server)
            turns[server.name].append(wrk.turn(lua, url, server.running, options.seconds, directory))
    labels = {"size": case.size, "encoding": case.encoding, "method": case.method}
    return [{**labels, "server": name, **sent[name], **medians(turns[name])} for name in turns]


def warm(case: Case, server: Server) -> dict[str, object]:
    """Send several requests over one connection; return size and encoding of the last response."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    for _ in range(WARM_UP_REQUESTS):
        body = case.body.encode() or None
        connection.request(case.method, case.path(server), body, case.headers(server))
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise SystemExit(f"{server.name}, {case.name}: {response.status} {data[:500]!r}")
    connection.close()
    if "HIT" not in response.getheader("X-Cache", "HIT"):  # only nginx sends it
        raise SystemExit(f"{server.name} does not cache {case.name}")
    return {"sent_bytes": len(data), "sent_encoding": response.getheader("Content-Encoding") or "plain"}


def _tables(figures: list[dict[str, object]]) -> list[Table]:
    """One table for each kind of request, one row for each server."""
    columns = ("", "CPU µs/request", "requests/s", "p50 ms", "p99 ms", "gateway / it", "sent")
    tables = []
    for name, rows in _by_case(figures).items():
        ours = next(number(row["cpu_us"]) for row in rows if row["server"] == OURS)
        shown = [_cells(row, ours) for row in rows]
        tables.append(Table(f"Hits, {name}", columns, shown))
    return tables


def _cells(row: dict[str, object], ours: float) -> tuple[str, ...]:
    cpu = number(row["cpu_us"])
    times = [f"{number(row[key]):.2f}" for key in ("p50_ms", "p99_ms")]
    sent = f"{number(row['sent_bytes']) / 1000:.1f} KB {row['sent_encoding']}"
    ratio = f"{ours / cpu:.2f}" if cpu else "-"
    return (str(row["server"]), f"{cpu:.1f}", f"{number(row['rate']):.0f}", *times, ratio, sent)


def _short_tables(figures: list[dict[str, object]]) -> list[Table]:
    """CPU only: one row per server, one column per kind of request, one table per encoding."""
    tables = []
    for encoding in ("plain", "gzip"):
        cases = {name: rows for name, rows in _by_case(figures).items() if rows[0]["encoding"] == encoding}
        cpu = {(row["server"], name): number(row["cpu_us"]) for name, rows in cases.items() for row in rows}
        names = list(dict.fromkeys(str(row["server"]) for rows in cases.values() for row in rows))
        rows = [(name, *(f"{cpu[name, c]:.1f}" if (name, c) in cpu else "–" for c in cases)) for name in names]
        columns = ("", *(name.replace(f" {encoding},", "") for name in cases))
        tables.append(Table(f"Hits, {encoding}: server CPU time per request, in µs", columns, rows))
    return tables


def _by_case(figures: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row in figures:
        found.setdefault(f"{row['size']}, {row['encoding']}, {row['method']}", []).append(row)
    return found
