"""A load generator for what wrk cannot send: requests in two segments, Unix sockets, a fixed number in a second.

It runs as a process of its own, so that its CPU time is its own: `python -m bench.load`, with the load as JSON from
standard input. `turn` starts it and adds the CPU time of the server.
"""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from bench.processes import Running
from bench.wrk import CONNECTIONS, Turn

TIMEOUT_SECONDS = 20.0
_SPIN_SECONDS = 0.0002
"""A sleep ends up to this much too late; the rest of a wait is spent awake."""

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: chunked")
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """What is sent, and for how long."""

    url: str
    """`http://host:port` or `unix:/path`."""
    segments: list[str]
    """The bytes of one request, as they are cut, in Latin-1."""
    seconds: float
    connections: int = CONNECTIONS
    rate: float = 0.0
    """Requests per second over one connection; 0: as many as possible, over all connections."""


def sent(load: Load) -> list[float]:
    """Send the load from a process of its own; return the seconds of each request."""
    command, given = [sys.executable, "-m", "bench.load"], json.dumps(asdict(load))
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{load.url}: the load generator failed")
    times: list[float] = json.loads(done.stdout)
    return times


def turn(url: str, segments: list[bytes], server: Running, seconds: float) -> Turn:
    """Load `url` for `seconds`; the figures are those that wrk gives."""
    before = server.cpu_seconds()
    times = sent(Load(url, [segment.decode("latin-1") for segment in segments], seconds))
    cpu = server.cpu_seconds() - before
    cuts = statistics.quantiles(times, n=100)
    return Turn(len(times), cpu / len(times) * 1e6, len(times) / seconds, cuts[49] * 1000, cuts[98] * 1000)


def connect(url: str) -> socket.socket:
    """Connect without delaying segments."""
    if url.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(url.removeprefix("unix:"))
        return connection
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), timeout=TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if place.scheme == "https":
        return client_context().wrap_socket(connection)
    return connection


def client_context() -> ssl.SSLContext:
    """Return a context that accepts the certificate of the benchmark."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Line:
    """One connection, with at most one request under way. After a response, `head` and `body_bytes` describe it."""

    def __init__(self, url: str, segments: list[bytes]) -> None:
        self.socket = connect(url)
        self.began = 0.0
        self._segments = segments
        self.head = self._before = b""
        self.body_bytes = 0
        self._length: int | None = None
        self._begun = False

    def send(self) -> None:
        """Send the request."""
        self._before, self._begun, self.body_bytes = b"", False, 0
        self.began = time.perf_counter()
        for segment in self._segments:
            self.socket.sendall(segment)

    def ask(self) -> None:
        """Send the request and read the response."""
        self.send()
        while not self.receive():
            pass

    def receive(self) -> bool:
        """Read what is there; whether the response is complete."""
        data = self.socket.recv(262_144)
        if not data:
            raise SystemExit(f"the server closed after {self.head[:500]!r}")
        if self._begun:
            return self._ends(data)
        self._before += data
        head, end, body = self._before.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or not (length or _CHUNKED.search(head)):
            raise SystemExit(f"the server responded {head[:500]!r}")
        self.head, self._begun = head, True
        self._length = int(length[1]) if length else None
        return self._ends(body)

    def _ends(self, data: bytes) -> bool:
        """Count a part of the body; whether it was the last one."""
        self.body_bytes += len(data)
        if self._length is not None:
            return self.body_bytes == self._length
        self._before = self._before[-len(_LAST_CHUNK) :] + data
        return self._before.endswith(_LAST_CHUNK)


def _flat_out(load: Load, segments: list[bytes]) -> list[float]:
    """Send the next request on each connection as soon as it has its response; return the seconds of each."""
    lines = {line.socket.fileno(): line for line in (Line(load.url, segments) for _ in range(load.connections))}
    poll = select.epoll()
    for number, line in lines.items():
        poll.register(number, select.EPOLLIN)
        line.send()
    times, end = [], time.perf_counter() + load.seconds
    while (now := time.perf_counter()) < end:
        for number, _ in poll.poll(TIMEOUT_SECONDS):
            line = lines[number]
            if line.receive():
                times.append(time.perf_counter() - line.began)
                line.send()
        if time.perf_counter() - now > TIMEOUT_SECONDS:
            raise SystemExit("the server does not respond")
    return times


def _at_rate(load: Load, segments: list[bytes]) -> list[float]:
    """Send requests at fixed moments; return the seconds from the moment to the end of the response.

    A request that has to wait for the one before it counts from its own moment: what a pause delays is all counted.
    """
    line = Line(load.url, segments)
    times, began = [], time.perf_counter()
    for number in range(max(2, round(load.seconds * load.rate))):
        due = began + number / load.rate
        while (left := due - time.perf_counter()) > 0:
            time.sleep(max(0.0, left - _SPIN_SECONDS))
        line.ask()
        times.append(time.perf_counter() - due)
    return times


def _main() -> None:
    load = Load(**json.load(sys.stdin))
    segments = [segment.encode("latin-1") for segment in load.segments]
    times = _at_rate(load, segments) if load.rate else _flat_out(load, segments)
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    _main()
