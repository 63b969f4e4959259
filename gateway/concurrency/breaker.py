"""The circuit breaker: it keeps requests away from an upstream that has failed several times."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import BreakerOpen


class Breaker:
    """Opens after `failures` in a row; after `reset` seconds one request passes, and its outcome decides."""

    def __init__(self, failures: int, reset: float, monotonic: Callable[[], float]) -> None:
        self.failures = failures
        self.reset = reset
        self._monotonic = monotonic
        self._count = 0
        self._opened_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether requests are refused now."""
        return self._count >= self.failures and self._monotonic() - self._opened_at < self.reset

    def check(self) -> None:
        """Let the request pass or refuse it.

        Raises:
            BreakerOpen: with the seconds to wait.
        """
        if self._count < self.failures:
            return
        left = self.reset - (self._monotonic() - self._opened_at)
        if left > 0:
            raise BreakerOpen("Redash has just failed several times in a row; try again soon.", retry_after=left)
        self._opened_at = self._monotonic()  # this request is the probe; the others wait for its outcome

    def succeeded(self) -> None:
        """Redash responded, with whatever status."""
        self._count = 0

    def failed(self) -> None:
        """Redash could not be reached or timed out, or a proxy in front of it responded with 502-504."""
        self._count += 1
        if self._count >= self.failures:
            self._opened_at = self._monotonic()
