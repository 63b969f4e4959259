"""Hits over other connections than a few kept ones: one for each request, a thousand at once, a Unix socket."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.nginx import best, nginx
from bench.opponents import bare_protocol
from bench.ratios import AGAINST_NGINX, Ratio, ratios
from bench.replaying import CLOSE, Figures, Replayed, in_turns, recorded
from bench.report import Options, Section
from bench.samples import Samples, samples
from bench.servers import LOOPS, Server, gateways
from bench.wrk import CONNECTIONS

SIZE = "1 KB"
MANY = 1_000
ONE_EACH = (
    Ratio("gateway, uvloop", "nginx", "≤ 1.3"),
    Ratio("gateway, asyncio", "nginx"),
    Ratio("gateway, uvloop", "bare protocol, uvloop"),
    Ratio("gateway, asyncio", "bare protocol, asyncio", "≤ 1.2"),
)
KEPT = tuple(replace(ratio, target="≤ 1.0") for ratio in AGAINST_NGINX)


def measure(options: Options, directory: Path) -> Section:
    """Send the requests of one table after the other."""
    with ExitStack() as stack:
        found = stack.enter_context(samples(directory))
        by_port = _servers(stack, directory, found)
        bare = [stack.enter_context(bare_protocol(directory, found.body(SIZE), loop)) for loop in LOOPS]
        by_socket = _servers(stack, directory, found, unix=True)

        def rows(requests: list[Replayed], servers: list[Server], connections: int = CONNECTIONS) -> list[Figures]:
            return [row for one in requests for row in in_turns(one, servers, options, directory, connections)]

        one_each = rows(_scripts(found), [*by_port, *bare])
        many = rows(_kept(found), by_port, MANY)
        own = [replace(one, own_generator=True) for one in _kept(found)]
        local = [
            row | {"request": f"{row['request']}, {how}"}
            for how, servers in (("TCP", by_port), ("Unix socket", by_socket))
            for row in rows(own, servers)
        ]
    tables = [
        ratios(f"One request for each connection, {SIZE}: server CPU time per request, in µs", one_each, ONE_EACH),
        ratios(f"{MANY:,} kept connections, {SIZE}: server CPU time per request, in µs", many, KEPT),
        ratios(
            f"By TCP and by Unix socket, {SIZE}, sent by a generator in Python: server CPU time, in µs", local, KEPT
        ),
    ]
    return Section("connections", [*one_each, *many, *local], tables)


def _servers(stack: ExitStack, directory: Path, found: Samples, *, unix: bool = False) -> list[Server]:
    """Start the gateway on each loop, and nginx."""
    ours = stack.enter_context(gateways(directory, found.url, found.key, unix=unix))
    theirs = stack.enter_context(nginx(directory, found.url, found.key, unix=unix))
    return [*ours, *best(theirs, SIZE, "plain")]


def _scripts(found: Samples) -> list[Replayed]:
    """Return what scripts send: they open a connection for each request."""
    requests = [
        (recorded("curl", "GET"), CLOSE),
        (recorded("curl", "POST"), CLOSE),
        (recorded("pandas.read_csv", "GET"), ""),
    ]
    return [Replayed(request, SIZE, found.ids[SIZE], field) for request, field in requests]


def _kept(found: Samples) -> list[Replayed]:
    """Return requests whose responses are plain, for the same server of nginx as the others."""
    requests = [("wget", "GET"), ("curl", "POST")]
    return [Replayed(recorded(client, kind), SIZE, found.ids[SIZE]) for client, kind in requests]
