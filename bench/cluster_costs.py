"""What gateways cost the Redis that they share: its CPU time and its memory, from which `docs/scaling.md` reckons."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.caller import Caller
from bench.ratios import number
from bench.report import Options, Table
from bench.servers import Redis, fixed_upstream, gateway, redis_server
from bench.upstream import KILOBYTE
from gateway.store.redis.scripts import FORMAT

Figures = dict[str, object]

GATEWAYS = 3
IDLE_SECONDS = 10.0
ENTRIES = 2_000
READS = 5
"""How often each entry is read from Redis."""

SUBSCRIBERS = (10, 100, 1_000)
MESSAGES = 20_000
_SEQUENCE = f"redash-gateway:{FORMAT}:seq"
_MESSAGE = b"x" * 120
"""As long as the announcement of a result."""


def measure(options: Options, directory: Path) -> list[Figures]:
    """Measure each cost once: they are sums over thousands of commands."""
    return [*_of_gateways(options, directory), *_of_announcements(directory)]


def table(figures: list[Figures]) -> Table:
    """One line for each cost."""
    rows: list[tuple[str, ...]] = [(str(f["cost"]), f"{number(f['value']):.1f} {f['unit']}") for f in figures]
    return Table("What gateways cost the Redis that they share", ("", "measured"), rows)


def _figure(cost: str, value: float, unit: str) -> Figures:
    return {"cost": cost, "value": value, "unit": unit}


def _of_gateways(options: Options, directory: Path) -> list[Figures]:
    with ExitStack() as stack:
        upstream = stack.enter_context(fixed_upstream(directory))
        redis = stack.enter_context(redis_server(directory))
        before = redis.info("used_memory"), redis.info("connected_clients")
        servers = [
            stack.enter_context(
                gateway(directory, upstream, loop=options.loop, store=redis.url, cache='memory = "1MB"')
            )
            for _ in range(GATEWAYS)
        ]
        idle = _cpu(redis, lambda: time.sleep(IDLE_SECONDS)) / GATEWAYS / IDLE_SECONDS
        clients = (redis.info("connected_clients") - before[1]) / GATEWAYS
        memory = (redis.info("used_memory") - before[0]) / GATEWAYS
        writing, reading, _ = map(Caller.of, servers)
        writing.post(KILOBYTE, ENTRIES)
        empty, announced = redis.info("used_memory"), redis.number(_SEQUENCE)
        heard = servers[2].running.cpu_seconds()
        stored = _cpu(redis, lambda: _post(writing, 1)) / ENTRIES
        entry = (redis.info("used_memory") - empty) / ENTRIES
        announced, heard = redis.number(_SEQUENCE) - announced, servers[2].running.cpu_seconds() - heard
        read = _cpu(redis, lambda: _post(reading, READS)) / ENTRIES / READS
    return [
        _figure("connections of a gateway", clients, ""),
        _figure("memory of Redis for an idle gateway", memory / 1000, "KB"),
        _figure("CPU time of Redis for an idle gateway, each second", idle * 1e6, "µs"),
        _figure("CPU time of Redis for a run of 1 KB: lease, records, result", stored * 1e6, "µs"),
        _figure("memory of Redis for a result of 1 KB, with its records", entry / 1000, "KB"),
        _figure("announcements of a run", announced / ENTRIES, ""),
        _figure("CPU time of another gateway that hears of a run", heard / ENTRIES * 1e6, "µs"),
        _figure("CPU time of Redis for a hit of 1 KB from Redis", read * 1e6, "µs"),
    ]


def _post(caller: Caller, times: int) -> None:
    for _ in range(times):
        for n in range(ENTRIES):
            caller.post(KILOBYTE, n)


def _cpu(redis: Redis, work: Callable[[], None]) -> float:
    """Return the CPU seconds that Redis uses meanwhile."""
    before = redis.cpu_seconds()
    work()
    return redis.cpu_seconds() - before


def _of_announcements(directory: Path) -> list[Figures]:
    """Publish to many subscribers, as to many gateways."""
    figures = []
    for count in SUBSCRIBERS:
        with redis_server(directory) as redis:
            subscribers = [redis.connect() for _ in range(count)]
            for each in subscribers:
                each.sendall(b"SUBSCRIBE news\r\n")
                each.recv(1_000)
            messages = MESSAGES * SUBSCRIBERS[0] // count
            taken = _cpu(redis, partial(_publish, redis, messages, subscribers)) / messages
            for each in subscribers:
                each.close()
        figures.append(_figure(f"CPU time of Redis for an announcement to {count:,} gateways", taken * 1e6, "µs"))
    return figures


def _publish(redis: Redis, messages: int, subscribers: list[socket.socket]) -> None:
    """Publish one message after the other; what arrives is read now and then, so that no buffer fills."""
    with redis.connect() as publisher:
        for sent in range(messages):
            publisher.sendall(b"PUBLISH news " + _MESSAGE + b"\r\n")
            publisher.recv(100)
            if sent % 100 == 99:
                for each in subscribers:
                    each.recv(65_536)
