"""New TLS connections, one after the other in a few threads: wrk knows TLS 1.2 only, and resumes every session."""

from __future__ import annotations

import socket
import ssl
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from bench import load
from bench.servers import Server
from bench.wrk import Turn

THREADS = 4


class Handshakes:
    """Makes connections to one server; each sends the request, which must close it, or nothing."""

    def __init__(self, server: Server, request: bytes, *, asks: bool, resumed: bool) -> None:
        self._server = server
        self._plain = server.url.replace("https:", "http:")
        self._request = request
        self._asks = asks
        self._context = load.client_context()
        self._session: ssl.SSLSession | None = None
        self._session = self._connect(asks=True) if resumed else None

    def turn(self, seconds: float) -> Turn:
        """Make connections for some seconds."""
        times: list[float] = []
        before = self._server.running.cpu_seconds()
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(THREADS) as pool:
            for found in pool.map(lambda _: self._until(end), range(THREADS)):
                times += found
        cpu = self._server.running.cpu_seconds() - before
        cuts = statistics.quantiles(times, n=100)
        return Turn(len(times), cpu / len(times) * 1e6, len(times) / seconds, cuts[49] * 1000, cuts[98] * 1000)

    def _until(self, end: float) -> list[float]:
        times = []
        while (began := time.monotonic()) < end:
            self._connect(asks=self._asks)
            times.append(time.monotonic() - began)
        return times

    def _connect(self, *, asks: bool) -> ssl.SSLSession | None:
        """Make one connection and read it to its end; return its session, which TLS 1.3 sends after the handshake."""
        with (
            load.connect(self._plain) as plain,
            self._context.wrap_socket(plain, session=self._session) as connection,
        ):
            if self._session is not None and not connection.session_reused:
                raise SystemExit(f"{self._server.name} does not resume a session")
            if not asks:
                connection.shutdown(socket.SHUT_WR)  # the server has read all of the handshake when it closes, too
            else:
                connection.sendall(self._request)
            received = b""
            while data := connection.recv(65_536):
                received += data
            if asks and not received.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{self._server.name} responded {received[:500]!r}")
            return connection.session
