"""One teller for everything that has become of something: metrics, log and traces get the same record, once."""

from __future__ import annotations

from gateway import log
from gateway.metrics import Metrics
from gateway.outcome import ExecutionEnd, Outcome, Trace, UpstreamCall
from gateway.status.recorder import StatusRecorder
from gateway.tracing import Tracing


class Telling:
    """The `Teller` of the running gateway."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        access_log: bool,
        recorder: StatusRecorder | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._watch = log.UpstreamWatch()
        self._tracing = tracing
        self.access_log = access_log

    def begin(self, parent: Trace | None) -> Trace | None:
        """Return a span of its own for what begins; without an exporter, what the caller sent is passed on."""
        return parent if self._tracing is None else self._tracing.begin(parent)

    def request(self, outcome: Outcome, count: int = 1) -> None:
        """Count and log one request, or several that were answered alike."""
        self._metrics.request(outcome, count)
        if self._recorder is not None:
            self._recorder.request(outcome, count)
        if self.access_log:
            log.tell_request(outcome)
        if self._tracing is not None:
            self._tracing.request(outcome)

    def upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash."""
        self._metrics.upstream(call)
        if self._recorder is not None:
            self._recorder.upstream(call)
        self._watch.tell(call)
        if self._tracing is not None:
            self._tracing.upstream(call)

    def execution(self, end: ExecutionEnd) -> None:
        """Count and log one execution."""
        self._metrics.execution(end)
        if self._recorder is not None:
            self._recorder.execution(end)
        if end.ran:
            log.tell_execution(end)
        if self._tracing is not None:
            self._tracing.execution(end)

    def breaker(self, is_open: bool) -> None:
        """Log how the breaker stands, once for each change."""
        self._watch.breaker.tell(bad=is_open)
