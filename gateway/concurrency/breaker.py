"""The circuit breaker: it keeps requests away from an upstream that does not work."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import BreakerOpen


class Breaker:
    """Opens after `failures` in a row, or at once by `open`; after `reset` seconds one probe passes and decides."""

    def __init__(self, failures: int, reset: float, monotonic: Callable[[], float]) -> None:
        self.failures = failures
        self.reset = reset
        self._monotonic = monotonic
        self._count = 0
        self._opened_at = 0.0
        self._tripped = False

    @property
    def is_open(self) -> bool:
        """Whether requests are refused now."""
        return self._tripped and self._left() > 0

    @property
    def is_tripped(self) -> bool:
        """Whether it has opened, and no response has come since; then it is open, or it is time for a probe."""
        return self._tripped

    def refuse_if_open(self) -> None:
        """Refuse, without being the probe.

        Raises:
            BreakerOpen: with the seconds to wait.
        """
        if self.is_open:
            raise self.refusal()

    def check(self) -> None:
        """Let the request pass or refuse it.

        Raises:
            BreakerOpen: with the seconds to wait.
        """
        self.refuse_if_open()
        if self._tripped:
            self.probe()  # this request is the probe; the others wait for its outcome

    def refusal(self) -> BreakerOpen:
        """Return the error for a request that is refused."""
        return BreakerOpen("Redash does not work at the moment; try again soon.", retry_after=max(0.0, self._left()))

    def probe(self) -> None:
        """Refuse all requests for `reset` seconds from now on; one that was sent before decides."""
        self._opened_at = self._monotonic()

    def succeeded(self) -> None:
        """Redash responded, with whatever status."""
        self._count, self._tripped = 0, False

    def failed(self) -> None:
        """Redash could not be reached or timed out, or a proxy in front of it responded with 502-504."""
        self._count += 1
        if self._count >= self.failures:
            self.open()

    def open(self) -> None:
        """Refuse requests from now on."""
        self._tripped = True
        self._opened_at = self._monotonic()

    def _left(self) -> float:
        return self.reset - (self._monotonic() - self._opened_at)
