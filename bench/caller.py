"""Callers of the gateway, or of the fixed upstream directly; each keeps one connection open."""

from __future__ import annotations

import http.client
import json
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.servers import Server


@dataclass(frozen=True)
class Counts:
    """Requests that the fixed upstream has received so far."""

    posts: int
    definitions: int
    polls: int
    fetches: int
    executions: int
    finished_at: float
    """Monotonic seconds: when it last reported a job as finished for the first time."""

    @property
    def requests(self) -> int:
        """All requests that it received."""
        return self.posts + self.definitions + self.polls + self.fetches


def counts(upstream: str) -> Counts:
    """Read the counters of the fixed upstream; this request is not counted."""
    with urllib.request.urlopen(f"{upstream}/bench/counts") as response:
        return Counts(**json.load(response))


def body_for(n: int) -> bytes:
    """The body of a POST for parameter `n`."""
    return json.dumps({"max_age": 3600, "parameters": {"n": n}}).encode()


class Caller:
    """Sends one request after the other."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers = headers or {}

    @classmethod
    def of(cls, server: Server) -> Caller:
        """A caller with the server's own headers."""
        return cls(server.url, server.headers)

    def post(self, query_id: int, n: int) -> bytes:
        """Run a query with a parameter; the response must contain the result."""
        path = f"/api/queries/{query_id}/results"
        data = self.ask("POST", path, body_for(n))
        if not data.startswith(b'{"query_result"'):
            raise SystemExit(f"POST {path}: {data[:500]!r}")
        return data

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        """Send a request; the response must be 200."""
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {response.status} {data[:500]!r}")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
