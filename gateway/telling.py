"""One teller for everything that has become of something: metrics and log get the same record, once."""

from __future__ import annotations

from gateway import log
from gateway.metrics import Metrics
from gateway.outcome import ExecutionEnd, Outcome, UpstreamCall


class Telling:
    """The `Teller` of the running gateway."""

    def __init__(self, metrics: Metrics, *, access_log: bool) -> None:
        self._metrics = metrics
        self._watch = log.CredentialWatch()
        self.access_log = access_log

    def request(self, outcome: Outcome, count: int = 1) -> None:
        """Count and log one request, or several that were answered alike."""
        self._metrics.request(outcome, count)
        if self.access_log:
            log.tell_request(outcome)

    def upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        self._metrics.upstream(call)
        self._watch.tell(call)

    def execution(self, end: ExecutionEnd) -> None:
        """Count and log one execution."""
        self._metrics.execution(end)
        log.tell_execution(end)
