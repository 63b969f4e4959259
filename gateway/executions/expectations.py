"""How long the next run of a query will take, by its last one. A run is polled when its end is expected (`polling`)."""

from __future__ import annotations

from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.executions.execution import LIFE_SECONDS
from gateway.executions.polling import Polls
from gateway.model import Key
from gateway.policy.plan import Plan
from gateway.results.cache import ResultCache

_MOST: Final = 4_096

_OVERHEAD_KEPT: Final = 0.75
"""How much of the overhead is expected again after a run that did not show it."""

_EXACT_SECONDS: Final = 0.001
"""A poll on the expected end is never sent exactly then."""


class Expectation(msgspec.Struct, frozen=True):
    """What the last run of a query lets expect of the next one."""

    runtime: float = 0.0
    """Seconds that the data source worked; 0 where results do not contain it (query keys, CONTRACT 8)."""
    overhead: float = 0.0
    """Seconds that its job took beyond that: Redash starts a worker, and stores the rows."""

    def seconds(self) -> float:
        """Return how long the next run takes, 0 if unknown; with a little to spare, as a poll too early is in vain."""
        return self.runtime + max(self.overhead, self._margin()) if self.runtime or self.overhead else 0.0

    def after(self, runtime: float, polls: Polls | None) -> Expectation:
        """Return what to expect after one more run, from its runtime, and from its polls, if there were any.

        If it was still running later than expected, the overhead is longer. Otherwise it may have been shorter.
        """
        if polls is None or polls.queued:
            return Expectation(runtime, self.overhead)
        shorter = Expectation(runtime, self.overhead * _OVERHEAD_KEPT)
        in_time = polls.running < runtime + max(self.overhead, shorter._margin()) - _EXACT_SECONDS
        return shorter if in_time else Expectation(runtime, polls.ended - runtime)

    def _margin(self) -> float:
        return 0.005 + self.runtime / 100


class Expectations:
    """What is expected of the next run of each query; of free SQL, for each key."""

    def __init__(self, results: ResultCache) -> None:
        self._results = results
        self._last: LRUCache[int | Key, Expectation] = LRUCache(_MOST)

    def seconds(self, plan: Plan) -> float:
        """Return how many seconds a run will take, 0 if that is unknown.

        The stored result is that of the same parameters, and outlives the process.
        """
        last = self._last.get(plan.query_id or plan.key, Expectation())
        return min(LIFE_SECONDS, Expectation(self.runtime(plan), last.overhead).seconds())

    def runtime(self, plan: Plan) -> float:
        """Return how many seconds the data source will work, 0 if that is unknown."""
        last = self._last.get(plan.query_id or plan.key, Expectation())
        return self._results.runtime(plan.key) or last.runtime

    def is_of_these_values(self, plan: Plan) -> bool:
        """Whether `runtime` is that of the same values for sure."""
        return not plan.query_id or self._results.runtime(plan.key) > 0

    def learn(self, plan: Plan, runtime: float, polls: Polls | None) -> None:
        """Take note of a run that has ended; without polls, of a result that Redash had already."""
        of = plan.query_id or plan.key
        self._last[of] = self._last.get(of, Expectation()).after(min(LIFE_SECONDS, max(0.0, runtime)), polls)
