"""A server that writes down the bytes it gets, and in which segments; it responds as the gateway would."""

from __future__ import annotations

import itertools
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ETAG = '"an etag"'
_JSON = b'{"query_result": {"id": 1, "data": {"columns": [], "rows": []}}}'
_ANY_ORIGIN = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *, Authorization\r\n"


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    connection: int
    head: str
    body: str
    segments: tuple[int, ...]
    """The lengths of what each read returned: fewer than arrived, if the reader was late."""
    arrived: int
    """How many segments with data arrived."""


class Listener:
    """Records every request; `pages` returns the HTML of a path, or None for what the gateway would answer."""

    def __init__(self, pages: Callable[[Received], str | None]) -> None:
        self.received: list[Received] = []
        self.done = threading.Event()
        self._pages = pages
        self._numbers = itertools.count()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            arguments = (connection, next(self._numbers))
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(60)
        before = 0
        with connection:
            try:
                while (received := _read(connection, number, before)) is not None:
                    before += received.arrived
                    self.received.append(received)
                    connection.sendall(self._response(received))
            except OSError:
                return

    def _response(self, received: Received) -> bytes:
        if received.head.split(" ", 2)[1].startswith("/done"):
            self.done.set()
        if received.head.startswith("OPTIONS "):
            return f"HTTP/1.1 204 No Content\r\n{_ANY_ORIGIN}\r\n".encode()
        if "if-none-match:" in received.head.lower():
            return f"HTTP/1.1 304 Not Modified\r\nETag: {ETAG}\r\n{_ANY_ORIGIN}\r\n".encode()
        page = self._pages(received)
        if page is not None:
            return _ok("text/html", page.encode(), "")
        if ".csv" in received.head.split(" ", 2)[1]:
            return _ok("text/csv", b"n\n1\n", "")
        return _ok("application/json", _JSON, f"ETag: {ETAG}\r\nCache-Control: private, no-cache\r\n")


def _ok(kind: str, body: bytes, fields: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{fields}{_ANY_ORIGIN}\r\n"
    return head.encode() + body


def _read(connection: socket.socket, number: int, before: int) -> Received | None:
    """Read one request; None when the client has closed. `before`: segments that have arrived with earlier ones."""
    data, lengths = b"", []
    while not _whole(data):
        segment = connection.recv(65536)
        if not segment:
            return None
        data += segment
        lengths.append(len(segment))
    head, _, body = data.partition(b"\r\n\r\n")
    arrived = _arrived(connection) - before
    return Received(number, head.decode("latin-1"), body.decode(), tuple(lengths), arrived)


def _arrived(connection: socket.socket) -> int:
    """Return `tcpi_data_segs_in` of this connection (Linux, tcp(7))."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int(struct.unpack_from("I", info, 152)[0])


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


@contextmanager
def listening(pages: Callable[[Received], str | None]) -> Iterator[Listener]:
    """Run a listener in the background."""
    listener = Listener(pages)
    thread = threading.Thread(target=listener.accept, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.close()
        thread.join(10)
