"""Traces: `traceparent` is read by W3C Trace Context; with the extra `otel`, spans go to a collector.

Spans are made from the same records as metrics and logs, when something has ended; nothing else is traced.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from gateway import __version__, needs_extra
from gateway.errors import ConfigurationError
from gateway.model import Clock
from gateway.outcome import ExecutionEnd, Outcome, Trace, UpstreamCall
from gateway.telemetry.health import TransitionLog
from gateway.telemetry.log import clean

MOST_STATE_BYTES: Final = 512
MOST_STATE_MEMBERS: Final = 32
EXPORT_SECONDS: Final = 5.0

_MISSING: Final = f"this {needs_extra('otel')}"

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS: Final = 0x03
"""Sampled, and random (Trace Context level 2); all other flags are cleared when a trace is passed on."""

_VALUE: Final = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER: Final = re.compile(rf"([a-z0-9][a-z0-9_*/-]{{0,240}}(?:@[a-z][a-z0-9_*/-]{{0,13}})?)={_VALUE}")


class Headers(Protocol):
    """Header fields by case-insensitive name; a name may occur several times."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]:
        """Return every value."""

    def __contains__(self, key: object) -> bool: ...


def incoming(headers: Headers) -> Trace | None:
    """Read the trace context of a request; an invalid one is ignored."""
    if "traceparent" not in headers:
        return None
    return trace_context(headers.getall("traceparent", ()), headers.getall("tracestate", ()))


def trace_context(parents: Sequence[str], states: Sequence[str] = ()) -> Trace | None:
    """Read the values of `traceparent` and `tracestate`; None where they are invalid."""
    found = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    known = _KNOWN_FLAGS if version == "00" else 1
    return Trace(trace_id, span_id, f"{int(flags, 16) & known:02x}", _state(states))


def _state(values: Sequence[str]) -> str:
    """Read `tracestate`: nothing if a member is invalid; if it is too long, only as many whole members as fit."""
    members = [member for value in values for part in value.split(",") if (member := part.strip(" \t"))]
    matches = [_MEMBER.fullmatch(member) for member in members]
    names = {match[1] for match in matches if match is not None}
    if len(names) < len(members) or len(members) > MOST_STATE_MEMBERS:
        return ""
    while len(state := ",".join(members)) > MOST_STATE_BYTES:
        members.pop()
    return state


def refusal(endpoint: str | None) -> str | None:
    """Return why there can be no spans, though there is an endpoint, and what to do; None if there can be some."""
    try:
        found = endpoint is None or importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ImportError:  # not even the packages around it
        found = False
    return None if found else _MISSING


class Tracing:
    """Makes spans and hands them to the OpenTelemetry exporter, which sends them from its own thread."""

    def __init__(self, endpoint: str, clock: Clock) -> None:
        """Raise ConfigurationError if the extra is not installed."""
        try:
            import opentelemetry.trace as api  # noqa: PLC0415 - only with the extra
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415
        except ImportError:
            raise ConfigurationError([f"tracing.endpoint: {_MISSING}"]) from None
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would log every failed export
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        resource = Resource.create({"service.name": "redash-gateway", "service.version": __version__})
        self._ids = _Ids()
        self._provider = TracerProvider(ALWAYS_ON, resource, False, id_generator=cast(Any, self._ids))
        self._provider.add_span_processor(BatchSpanProcessor(cast(Any, _Exporter(exporter))))
        self._tracer = self._provider.get_tracer("redash-gateway", __version__)
        self._api: Any = api
        self._clock = clock

    def begin_span(self, parent: Trace | None) -> Trace:
        """Begin a span; the parent's decision not to sample is kept."""
        if parent is None:
            return Trace(secrets.token_hex(16), secrets.token_hex(8), recorded=True)
        if not int(parent.flags, 16) & 1:
            return parent
        return Trace(parent.trace_id, secrets.token_hex(8), parent.flags, parent.state, parent.span_id, recorded=True)

    def record_request(self, outcome: Outcome) -> None:
        """Export the spans of one request: its own, and one for each step."""
        trace = outcome.trace or self.begin_span(None)  # the fast path begins no span
        if not trace.recorded:
            return
        kinds = self._api.SpanKind
        for step in outcome.steps:
            self._export(
                self.begin_span(trace), step.name, kinds.INTERNAL, step.started, step.ended, {}, link=step.link
            )
        name = "request" if outcome.route == "none" else f"{clean(outcome.method)} {outcome.route}"
        failed, ended = outcome.status >= 500, outcome.ended
        self._export(trace, name, kinds.SERVER, outcome.started, ended, _request_attributes(outcome), failed=failed)

    def record_upstream(self, call: UpstreamCall) -> None:
        """Export the span of one request to Redash."""
        if call.trace is None or not call.trace.recorded:
            return
        attributes = {
            "http.request.method": call.method,
            "http.route": call.route,
            "http.response.status_code": call.status or None,
            "redash_gateway.credential": call.credential,
        }
        kind, name, ended = self._api.SpanKind.CLIENT, f"{call.method} {call.route}", call.started + call.seconds
        failed = call.unavailable or not call.accepted or call.status >= 500
        self._export(call.trace, name, kind, call.started, ended, attributes, failed=failed)

    def record_execution(self, end: ExecutionEnd) -> None:
        """Export the span of one execution."""
        if end.trace is None or not end.trace.recorded:
            return
        attributes = {
            "redash_gateway.execution": end.id,
            "redash_gateway.query": end.query_id,
            "redash_gateway.result": end.result,
            "redash_gateway.callers": end.callers,
            "redash_gateway.ran": end.ran,
        }
        kind, failed = self._api.SpanKind.INTERNAL, end.result in ("failure", "lost")
        self._export(end.trace, "execution", kind, end.started, end.started + end.seconds, attributes, failed=failed)

    def _export(
        self,
        trace: Trace,
        name: str,
        kind: Any,
        started: float,
        ended: float,
        attributes: Mapping[str, object],
        *,
        link: Trace | None = None,
        failed: bool = False,
    ) -> None:
        self._ids.next = trace
        span = self._tracer.start_span(
            name,
            context=self._parent_context(trace),
            kind=kind,
            attributes=cast(Any, {name: value for name, value in attributes.items() if value is not None}),
            links=[self._api.Link(self._span_context(link, link.span_id))] if link is not None else (),
            start_time=self._nanoseconds(started),
        )
        if failed:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(self._nanoseconds(ended))

    def _parent_context(self, trace: Trace) -> Any:
        parent = self._api.INVALID_SPAN if not trace.parent else self._parent_span(trace)
        return self._api.set_span_in_context(parent)

    def _parent_span(self, trace: Trace) -> Any:
        return self._api.NonRecordingSpan(self._span_context(trace, trace.parent))

    def _span_context(self, trace: Trace, span_id: str) -> Any:
        flags = self._api.TraceFlags(int(trace.flags, 16))
        return self._api.SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)

    def _nanoseconds(self, monotonic: float) -> int:
        return int((self._clock.wall() - self._clock.monotonic() + monotonic) * 1e9)

    def close(self) -> None:
        """Send what is left, within `EXPORT_SECONDS`. Blocks: call it in a thread."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(EXPORT_SECONDS)


def _request_attributes(outcome: Outcome) -> Mapping[str, object]:
    return {
        "http.request.method": clean(outcome.method),
        "http.route": outcome.route,
        "http.response.status_code": outcome.status,
        "redash_gateway.request_id": clean(outcome.request_id),
        "redash_gateway.client": outcome.client,
        "redash_gateway.cache": outcome.cache,
        "redash_gateway.query": outcome.query_id,
        "redash_gateway.execution": outcome.execution_id or None,
        "redash_gateway.reason": outcome.reason or None,
    }


class _Ids:
    """Gives the SDK the ids made when the span began: Redash has already received them."""

    next: Trace

    def generate_span_id(self) -> int:
        return int(self.next.span_id, 16)

    def generate_trace_id(self) -> int:
        return int(self.next.trace_id, 16)

    def is_trace_id_random(self) -> bool:
        return False


class _Exporter:
    """The SDK's exporter; logs one line when the collector starts or stops accepting spans."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._transitions = TransitionLog(
            "the trace collector does not take spans", "the trace collector takes spans again"
        )

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        self._transitions.record(bad=result.name != "SUCCESS")
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))

    def shutdown(self) -> None:
        self._exporter.shutdown()
