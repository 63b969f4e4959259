"""Hits over TLS: kept connections and new ones, and what of a new connection is the handshake.

Gateway and nginx have the same certificate (P-256) and both their defaults: TLS 1.2 and 1.3, session tickets.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path

from bench.handshakes import Handshakes
from bench.nginx import best, nginx, program
from bench.ratios import AGAINST_NGINX, Ratio, ratios
from bench.replaying import CLOSE, Figures, Replayed, in_turns, medians, recorded
from bench.report import Options, Section
from bench.samples import Samples, samples
from bench.servers import Certificate, Server, gateways
from bench.wrk import Turn

KEPT = tuple(Ratio(ratio.server, ratio.through, "≤ 1.0") for ratio in AGAINST_NGINX)
NEW = tuple(Ratio(ratio.server, ratio.through, "≤ 1.5") for ratio in AGAINST_NGINX)
SIZES = ("1 KB", "100 KB")
_BY_WRK = "a request, resumed session, by wrk with TLS 1.2"


def measure(options: Options, directory: Path) -> Section:
    """Send requests over kept connections, then over new ones; then make connections that only shake hands."""
    with ExitStack() as stack:
        found = stack.enter_context(samples(directory))
        certificate = _certificate(directory)
        ours = stack.enter_context(gateways(directory, found.url, found.key, certificate=certificate))
        theirs = stack.enter_context(nginx(directory, found.url, found.key, certificate=certificate))
        kept = [
            row
            for one in _kept(found, options.sizes)
            for row in in_turns(one, [*ours, *best(theirs, one.size, one.encoding)], options, directory)
        ]
        script = Replayed(recorded("curl", "GET"), "1 KB", found.ids["1 KB"], CLOSE)
        servers = [*ours, *best(theirs, "1 KB", "plain")]
        new = [row | {"request": _BY_WRK} for row in in_turns(script, servers, options, directory)]
        new += _new(script, servers, options)
    title = "server CPU time, in µs"
    tables = [
        ratios(f"Hits over TLS, kept connections: {title}", kept, KEPT),
        ratios(f"New connections over TLS, 1 KB: {title}", new, NEW),
    ]
    return Section("tls", [*kept, *new], tables)


def _kept(found: Samples, sizes: tuple[str, ...]) -> list[Replayed]:
    wanted = [("curl", "GET"), ("curl", "POST"), ("wget", "GET"), ("Chromium", "GET"), ("Chromium", "POST")]
    return [
        Replayed(recorded(client, kind), size, found.ids[size])
        for size in SIZES
        if size in sizes
        for client, kind in wanted
    ]


def _new(script: Replayed, servers: list[Server], options: Options) -> list[Figures]:
    """Measure new connections with a request and without one, each with a full and a resumed handshake."""
    rows: list[Figures] = []
    for name, asks, resumed in (
        ("a request, full handshake", True, False),
        ("a request, resumed session", True, True),
        ("only a full handshake", False, False),
        ("only a resumed handshake", False, True),
    ):
        made = {s.name: Handshakes(s, b"".join(script.segments(s)), asks=asks, resumed=resumed) for s in servers}
        turns: dict[str, list[Turn]] = {name: [] for name in made}
        for _ in range(options.turns):
            for server, handshakes in made.items():
                turns[server].append(handshakes.turn(options.seconds))
        rows += [{"request": name, "server": server, **medians(taken)} for server, taken in turns.items()]
    return rows


def _certificate(directory: Path) -> Certificate:
    """Make a self-signed certificate."""
    openssl = program("openssl")
    if openssl is None:
        raise SystemExit("the part tls needs openssl (apt-get install openssl)")
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run(command, check=True, capture_output=True)
    return made
