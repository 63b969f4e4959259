"""Stored results cost the garbage collector nothing: with 100,000 of them, each full collection took 100 ms."""

from __future__ import annotations

import gc
import sys

import pytest
from store_helpers import MB, FakeClock, entry, key

from gateway.body import Body
from gateway.store.memory import MemoryStore

MANY = 2_000
QUERIES = 20


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from 3.14 on every dict is tracked, but collected in steps")
def test_the_collector_tracks_no_stored_result() -> None:
    store = MemoryStore(64 * MB, FakeClock(), max_entry_bytes=MB)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(MANY):
        found = entry(number, result_id=number, query_id=number % QUERIES)
        store.insert([key(number), key(f"id {number}")], found, Body.of(b"%d" % number))
    gc.collect()
    assert store.stats()[0].entries == 2 * MANY
    assert len(gc.get_objects()) - before <= 3 * QUERIES
