"""Caches that are bounded by a number of entries keep no long texts: 256 texts of 8 KB are 2 MB that nobody counts."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import pytest
from cachetools import Cache
from support.calls import TOKENS
from support.http import exchange
from support.world import World

LONG: Final = "a" * 7_000
LONGEST_KEY: Final = 1_000

TOKEN: Final = f"Authorization: Key {TOKENS['dashboard']}"
BODY: Final = json.dumps({"max_age": 0, "parameters": {"x": LONG}})


def by_number() -> Iterator[Any]:
    """Every cache of the gateway that counts entries, not bytes."""
    for found in gc.get_objects():
        if isinstance(found, Cache):
            counts = all(found.getsizeof(value) == 1 for value in found.values())
        else:
            counts = isinstance(found, type(lru_cache(ord))) and found.__module__.startswith("gateway.")
        if counts:
            yield found


def texts(value: Any, depth: int = 4) -> Iterator[str | bytes]:
    """The texts in a key, or in the table of a cache."""
    if isinstance(value, str | bytes):
        yield value
    elif depth and isinstance(value, dict):
        for key in value:
            yield from texts(key, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for one in value:
            yield from texts(one, depth - 1)


def longest() -> int:
    tables = [gc.get_referents(c) if callable(c) else list(c) for c in by_number()]
    return max(len(text) for table in tables for one in table for text in texts(one))


@pytest.mark.parametrize(
    "request_line",
    [
        f"GET /{LONG} HTTP/1.1",
        f"GET /api/dashboards/{LONG} HTTP/1.1",
        f"GET /api/queries/1/results.csv?p_x={LONG} HTTP/1.1",
        "GET /api/queries/1/results.json HTTP/1.1",
        "POST /api/queries/1/results HTTP/1.1",
        "GET /ping HTTP/1.1",
    ],
)
async def test_long_texts_are_no_keys_of_caches_that_count_entries(world: World, request_line: str) -> None:
    assert longest() > 0
    fields = ("Accept-Encoding", "Prefer", "If-None-Match", "Origin", "X-Request-ID", "traceparent", "Range", "Accept")
    heads = [f"Host: localhost\r\n{TOKEN}\r\n{field}: {LONG}\r\n" for field in fields]
    heads += [f"Host: localhost\r\nAuthorization: Basic {LONG}\r\n", f"Host: localhost\r\nX-API-Key: {LONG}\r\n"]
    heads += [f"Host: {LONG}\r\n{TOKEN}\r\n"]
    body = BODY if request_line.startswith("POST") else ""
    for head in heads:
        sent = f"{request_line}\r\n{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        assert (await exchange(world.url, sent.encode())).startswith(b"HTTP/1.1 ")
    assert longest() < LONGEST_KEY
