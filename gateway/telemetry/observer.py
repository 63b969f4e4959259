"""Passes each record once to metrics, console, log and traces, so that they agree.

Requests served from the response cache get a log line each; metrics get one batch for all of them in a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
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
"""Records are handled in batches of this size, at most a millisecond of work. One at a time, between two responses,
each would cost twice as much (cold processor caches) and delay the next response. Most of a cached response's access
line is made in advance, so more lines fit in a batch."""


class Telemetry:
    """The `Observer` of the running gateway. Records requests, also those to Redash, in batches, all else at once."""

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
        self._health = UpstreamHealth()
        self._tracing = tracing
        self.access_log = access_log
        self.on_requests: Callable[[OutcomeBatch], None] = lambda batch: None
        """Called with what was recorded, too."""
        self._requests: list[Outcome] = []
        self._hits: list[OutcomeBatch] = []
        self._lines: list[Outcome | log.Hit] = []  # for the access log
        self._calls: list[UpstreamCall] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin_span(self, parent: Trace | None) -> Trace | None:
        """Begin a span below `parent`; without an exporter, pass on the caller's own."""
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

    def log_hit(
        self, request_id: str, address: str, ended: float, seconds: float, line: LineParts, trace_id: str = ""
    ) -> None:
        """Log one request served from the response cache, soon."""
        lines = self._lines
        lines.append((request_id, address, ended, seconds, line, trace_id))
        if self._timer is None or len(lines) >= MOST_LINES:
            self._flush_soon()

    def record_hits(self, hits: OutcomeBatch) -> None:
        """Count requests that got the same cached response, soon."""
        self._hits.append(hits)
        self._flush_soon()

    def record_upstream(self, call: UpstreamCall) -> None:
        """Count one request to Redash, soon; log a change of Redash's health at once."""
        self._health.record(call)
        self._calls.append(call)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if len(self._requests) + len(self._hits) >= BATCH or len(self._lines) >= MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Record everything that waits. Call it before you read metrics or the status."""
        requests, self._requests = self._requests, []
        hits, self._hits = self._hits, []
        lines, self._lines = self._lines, []
        calls, self._calls = self._calls, []
        if calls:
            self._flush_calls(calls)
        if requests or hits:
            self._flush_requests(requests, hits)
        if lines:
            log.write_requests(lines, time.time() - self._monotonic())

    def _flush_calls(self, calls: list[UpstreamCall]) -> None:
        for call in calls:
            self._metrics.record_upstream(call)
            if self._recorder is not None:
                self._recorder.record_upstream(call)
            if self._tracing is not None:
                self._tracing.record_upstream(call)

    def _flush_requests(self, requests: list[Outcome], hits: list[OutcomeBatch]) -> None:
        for batch in chain(batched(requests), hits):
            self._metrics.record_requests(batch)
            self.on_requests(batch)
            if self._recorder is not None:
                self._recorder.record_requests(batch)
        if self._recorder is not None:
            self._recorder.incidents.note(requests)
        if self._tracing is not None:
            for outcome in requests:
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

    def record_breaker(self, is_open: bool, cause: str = "") -> None:
        """Log when the breaker opens, with the cause, or closes."""
        self._health.breaker.record(bad=is_open, detail=cause)
