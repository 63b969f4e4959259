"""Artificial results of realistic length, to fill stores."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from gateway.body import Body
from gateway.model import Entry, Key, digest

T = TypeVar("T")
Stored = tuple[list[Key], Entry, Body]


def results(count: int, body_bytes: int) -> Iterator[Stored]:
    """Yield `count` results, each under two keys as the gateway stores them: its id, and its query with parameters.

    No two results share a string, as with results that the gateway parses from responses.
    """
    scope = hashlib.sha256(b"bench").hexdigest()
    for result_id in range(1, count + 1):
        number = str(result_id).encode()
        data = os.urandom(body_bytes // 2).hex().encode()
        now = time.monotonic()
        entry = Entry(
            body_id=digest(b"body", number),
            scope=scope,
            query_id=1 + result_id % 100,
            result_id=result_id,
            form="full",
            marker="2026-01-01T00:00:00.000Z",
            query_hash=hashlib.md5(number).hexdigest(),
            retrieved_at=f"2026-01-01T00:00:{result_id % 60:02}.{result_id % 1000:03}Z",
            runtime=result_id / 1000,
            born=now,
            confirmed=now,
            size=len(data),
        )
        yield [digest(b"result", number), digest(b"execute", number)], entry, Body.of(data)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; `itertools.batched` needs Python 3.12."""
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch
