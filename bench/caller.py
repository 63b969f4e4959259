"""Callers of the gateway, or of the fixed upstream directly: one connection that stays open."""

from __future__ import annotations

import http.client
import json
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.servers import Server


@dataclass(frozen=True)
class Counts:
    """What the fixed upstream has been asked so far."""

    posts: int
    definitions: int
    polls: int
    fetches: int
    executions: int
    finished_at: float
    """Monotonic seconds: when it last said for the first time that a job had finished."""

    @property
    def requests(self) -> int:
        """Everything that it was asked."""
        return self.posts + self.definitions + self.polls + self.fetches


def counts(upstream: str) -> Counts:
    """Ask the fixed upstream what it has counted; the question itself is not."""
    with urllib.request.urlopen(f"{upstream}/bench/counts") as answer:
        return Counts(**json.load(answer))


def body_for(n: int) -> bytes:
    """The body of a POST for parameter `n`."""
    return json.dumps({"max_age": 3600, "parameters": {"n": n}}).encode()


class Caller:
    """Asks one after the other."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers = headers or {}

    @classmethod
    def of(cls, server: Server) -> Caller:
        """A caller with the server's own headers."""
        return cls(server.url, server.headers)

    def post(self, query_id: int, n: int) -> bytes:
        """Run a query with a parameter; the answer must hold the result."""
        path = f"/api/queries/{query_id}/results"
        self._connection.request("POST", path, body_for(n), self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200 or not data.startswith(b'{"query_result"'):
            raise SystemExit(f"POST {path}: {answer.status} {data[:500]!r}")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
