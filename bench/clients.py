"""Hits by real clients: their recorded requests over kept connections, to the gateway on both loops and to nginx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from support.client_requests import ClientRequest, client_requests

from bench.nginx import best, nginx
from bench.ratios import overview, ratios
from bench.replaying import REQUEST_ID, TRACEPARENT, Figures, Replayed, in_turns, recorded
from bench.report import Options, Section
from bench.samples import Samples, samples
from bench.servers import gateways

SIZES = ("1 KB", "100 KB")
OWN, PLAIN, GZIP = ENCODINGS = ("own", "plain", "gzip")
"""What a request accepts: what the client has sent, or everything as one of the two."""

_HOW = {OWN: "plain or gzip as each client asks for it", PLAIN: "plain", GZIP: "gzip"}
TARGET, TRACED_TARGET = "≤ 1.0", "≤ 1.2"
"""CPU time of the gateway through that of nginx."""


def measure(options: Options, directory: Path) -> Section:
    """Send each client's requests to each server."""
    figures: list[Figures] = []
    tables, short = [], []
    with ExitStack() as stack:
        found = stack.enter_context(samples(directory))
        ours = stack.enter_context(gateways(directory, found.url, found.key))
        theirs = stack.enter_context(nginx(directory, found.url, found.key))
        for size in [size for size in SIZES if size in options.sizes]:
            for encoding in options.encodings:
                rows: list[Figures] = []
                for one in _requests(options.clients, encoding, found, size):
                    measured = in_turns(one, [*ours, *best(theirs, size, one.encoding)], options, directory)
                    rows += [row | {"target": TRACED_TARGET if one.field else TARGET} for row in measured]
                title = f"Hits by real clients, {size}, {_HOW[encoding]}: server CPU time per request, in µs"
                tables.append(ratios(title, rows))
                short.append(ratios(title, rows, rates=False))
                figures += rows
    title = "Hits by real clients: server CPU time per request, in µs, medians over their requests"
    return Section("clients", figures, tables, short, [overview(title, figures)])


def _requests(names: tuple[str, ...], encoding: str, found: Samples, size: str) -> Iterator[Replayed]:
    """Yield the requests that get a result over a kept connection, then some with a field of their own each time."""
    chosen = _distinct([one for one in client_requests() if one.kept and _is_result(one) and _named(one, names)])
    for one in chosen:
        yield Replayed(_accepting(one, encoding), size, found.ids[size])
    for client, kind, field in (
        ("requests", "GET", TRACEPARENT),
        ("Go net/http", "POST", TRACEPARENT),
        ("axios in Node", "POST", REQUEST_ID),
    ):
        one = recorded(client, kind)
        if _named(one, names):
            yield Replayed(_accepting(one, encoding), size, found.ids[size], field)


def _is_result(request: ClientRequest) -> bool:
    return request.method != "OPTIONS" and "again" not in request.kind


def _named(request: ClientRequest, names: tuple[str, ...]) -> bool:
    return not names or any(name.lower() in request.client.lower() for name in names)


def _distinct(requests: list[ClientRequest]) -> list[ClientRequest]:
    """Leave out requests that have the bytes of another client's."""
    by_bytes = {(one.head, one.body, one.split): one for one in reversed(requests)}
    return [one for one in requests if by_bytes[one.head, one.body, one.split] is one]


def _accepting(request: ClientRequest, encoding: str) -> ClientRequest:
    """Replace what the client accepts."""
    if encoding == OWN:
        return request
    lines = [line for line in request.head.split("\n") if not line.lower().startswith("accept-encoding:")]
    return replace(request, head="\n".join([*lines, *(["Accept-Encoding: gzip"] if encoding == GZIP else [])]))
