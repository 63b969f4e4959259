"""Recent failures: a request that is repeated at once gets the same failure, and no other run."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

from gateway.executions.execution import Execution
from gateway.model import Clock, Key
from gateway.policy.configured import Live
from gateway.policy.plan import Plan

_LARGEST_BYTES: Final = 16 * 1024 * 1024
"""Memory limit for all of them; each holds the parameters of its run."""


class Failures:
    """The executions that failed within `failure_ttl`, by key."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._failed: LRUCache[Key, tuple[Execution, float]] = LRUCache(_LARGEST_BYTES, getsizeof=_size)

    def get(self, plan: Plan) -> Execution | None:
        """Return a failure of this key younger than `failure_ttl`, None without one; max_age 0 ignores failures."""
        execution, at = self._failed.get(plan.key, (None, 0.0))
        if execution is None or plan.max_age == 0 or execution.plan.marker != plan.marker:
            return None
        return execution if self._clock.monotonic() - at <= self._live.settings.cache.failure_ttl else None

    def put(self, execution: Execution) -> None:
        """Remember that it failed now."""
        failure = (execution, self._clock.monotonic())
        if _size(failure) <= _LARGEST_BYTES:
            self._failed[execution.plan.key] = failure


def _size(failure: tuple[Execution, float]) -> int:
    execution = failure[0]
    return execution.weight + (len(execution.ending.error) if execution.ending is not None else 0)
