"""The sandbox's sample queries of known sizes, as upstream of servers that send hits."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.servers import redash

SIZES = {
    "1 KB": "First customers (1 KB)",
    "100 KB": "Latest orders (100 KB)",
    "5 MB": "All order notes (5 MB)",
}
"""The sandbox's sample queries by size."""

POST_BODY = '{"max_age": 86400}'


@dataclass(frozen=True)
class Samples:
    """A running sandbox that has a result of each query, so that every cache gets a result and no job."""

    url: str
    key: str
    ids: dict[str, int]
    """By size."""
    bodies: Path
    """A directory with the responses, by size, for bare servers."""

    def body(self, size: str) -> Path:
        """The file with the response of a size."""
        return self.bodies / size.replace(" ", "_")


@contextmanager
def samples(directory: Path) -> Iterator[Samples]:
    """Run the sandbox and each query once."""
    with redash(directory) as (url, key):
        found = Samples(url, key, _query_ids(url, key), directory / "bodies")
        found.bodies.mkdir()
        for size, query_id in found.ids.items():
            found.body(size).write_bytes(_result(url, key, query_id))
        yield found


def _query_ids(url: str, key: str) -> dict[str, int]:
    request = urllib.request.Request(f"{url}/api/queries?page_size=250", headers={"Authorization": f"Key {key}"})
    with urllib.request.urlopen(request) as response:
        queries = json.load(response)["results"]
    return {size: next(q["id"] for q in queries if q["name"] == name) for size, name in SIZES.items()}


def _result(url: str, key: str, query_id: int) -> bytes:
    """Run a query until there is a result; return the response."""
    end = time.monotonic() + 30
    body = b""
    while not body.startswith(b'{"query_result"'):
        if time.monotonic() > end:
            raise SystemExit(f"the sandbox has no result of query {query_id}: {body[:200]!r}")
        headers = {"Authorization": f"Key {key}"}
        request = urllib.request.Request(
            f"{url}/api/queries/{query_id}/results", data=POST_BODY.encode(), headers=headers
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body = response.read()
    return body
