"""One teller for everything that has become of something: metrics, log and traces get the same record, once.

Of known answers the log gets a line for each, the metrics one record for all that were given in a second.
"""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import Final

from gateway.model import Clock
from gateway.outcome import ExecutionEnd, LineParts, Outcome, OutcomeBatch, Trace, UpstreamCall, batched
from gateway.telemetry import log
from gateway.telemetry.health import UpstreamHealth
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.recorder import StatusRecorder
from gateway.telemetry.tracing import Tracing

GATHER_SECONDS: Final = 0.02
BATCH: Final = 64
MOST_LINES: Final = 512
"""So many requests are told of together, a millisecond's work at the most: one by one, between two answers, each costs
twice as much, as the processor has other code and data at hand then, and whoever waits for an answer waits for it.
Lines of known answers are mostly made before."""


class Telemetry:
    """The `Teller` of the running gateway. Requests, here and to Redash, are told of in batches, all else at once."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock,
        *,
        access_log: bool,
        recorder: StatusRecorder | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics
        self._monotonic = clock.monotonic
        self._recorder = recorder
        self._watch = UpstreamHealth()
        self._tracing = tracing
        self.access_log = access_log
        self._requests: list[Outcome] = []
        self._hits: list[OutcomeBatch] = []
        self._lines: list[Outcome | log.Hit] = []  # of requests, too, for the access log
        self._calls: list[UpstreamCall] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin_span(self, parent: Trace | None) -> Trace | None:
        """Return a span of its own for what begins; without an exporter, what the caller sent is passed on."""
        return parent if self._tracing is None else self._tracing.begin_span(parent)

    def record_request(self, outcome: Outcome) -> None:
        """Count and log one request, soon."""
        self._requests.append(outcome)
        if self.access_log:
            self._lines.append(outcome)
        self._flush_soon()

    def access_line(self, outcome: Outcome) -> LineParts | None:
        """See the protocol."""
        return log.parts_of_line(outcome) if self.access_log else None

    def log_hit(self, request_id: str, ended: float, seconds: float, line: LineParts) -> None:
        """Log one request that got a known answer, soon."""
        lines = self._lines
        lines.append((request_id, ended, seconds, line))
        if self._timer is None or len(lines) >= MOST_LINES:
            self._flush_soon()

    def record_hits(self, hits: OutcomeBatch) -> None:
        """Count requests that got the same known answer, soon."""
        self._hits.append(hits)
        self._flush_soon()

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash, soon; a change of what is known of Redash is logged at once."""
        self._watch.tell(call)
        self._calls.append(call)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if len(self._requests) + len(self._hits) >= BATCH or len(self._lines) >= MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Tell of everything that waits; whoever reads what is told does this first."""
        requests, self._requests = self._requests, []
        hits, self._hits = self._hits, []
        lines, self._lines = self._lines, []
        calls, self._calls = self._calls, []
        if calls:
            self._record_calls(calls)
        if requests or hits:
            self._record_requests(requests, hits)
        if lines:
            log.write_requests(lines, time.time() - self._monotonic())

    def _record_calls(self, calls: list[UpstreamCall]) -> None:
        for call in calls:
            self._metrics.record_upstream(call)
            if self._recorder is not None:
                self._recorder.record_upstream(call)
            if self._tracing is not None:
                self._tracing.record_upstream(call)

    def _record_requests(self, told: list[Outcome], hits: list[OutcomeBatch]) -> None:
        for group in chain(batched(told), hits):
            self._metrics.record_requests(group)
            if self._recorder is not None:
                self._recorder.record_requests(group)
        if self._tracing is not None:
            for outcome in told:
                self._tracing.record_request(outcome)

    def record_execution(self, end: ExecutionEnd) -> None:
        """Count and log one execution."""
        self._metrics.record_execution(end)
        if self._recorder is not None:
            self._recorder.record_execution(end)
        if end.ran:
            log.write_execution(end)
        if self._tracing is not None:
            self._tracing.record_execution(end)

    def record_breaker(self, is_open: bool) -> None:
        """Log how the breaker stands, once for each change."""
        self._watch.breaker.tell(bad=is_open)
