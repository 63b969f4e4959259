"""Requests by query, for a bounded number of queries: the busiest keep their label, all others share one."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

_OTHER: Final = "other"
_MOST_OTHERS: Final = 1_000
"""Queries without a label whose requests are counted, so that a busy one can get it."""

_MUCH_BUSIER: Final = 2
"""How much busier a query must be than one with a label to take its place: a series that changes often is of no use."""


class QueryCounts:
    """Counts of requests by label of the query (its id, or "other") and cache status."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: dict[tuple[str, str], int] = {}
        self._labelled: dict[int, int] = {}
        self._others: LRUCache[int, int] = LRUCache(_MOST_OTHERS)

    def add(self, query_id: int, cache: str, count: int) -> None:
        """Count requests that brought a result of a query: ids that Redash does not know must take no label."""
        key = (self._label(query_id, count), cache)
        self.values[key] = self.values.get(key, 0) + count

    def _label(self, query_id: int, count: int) -> str:
        if query_id in self._labelled or len(self._labelled) < self.most:
            self._labelled[query_id] = self._labelled.get(query_id, 0) + count
            return str(query_id)
        self._others[query_id] = self._others.get(query_id, 0) + count
        least = min(self._labelled, key=self._labelled.__getitem__, default=None)
        if least is None or self._others[query_id] <= _MUCH_BUSIER * self._labelled[least]:
            return _OTHER
        self._others[least] = self._labelled.pop(least)
        for label, cache in [key for key in self.values if key[0] == str(least)]:
            self.values[_OTHER, cache] = self.values.get((_OTHER, cache), 0) + self.values.pop((label, cache))
        self._labelled[query_id] = self._others.pop(query_id)
        return str(query_id)
