"""The logs: one line a request, one line an event, as text or JSON, with every key and token taken out."""

from __future__ import annotations

import json
import logging
import sys
import time

from gateway.outcome import ExecutionEnd, Outcome, UpstreamCall
from gateway.redact import text_without_keys

access = logging.getLogger("gateway.access")
events = logging.getLogger("gateway.events")


class Formatter(logging.Formatter):
    """Writes a record in the configured form; keys are taken out of the finished line, exceptions included."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if self._form == "json":
            line = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "message": text, **fields}
            return text_without_keys(json.dumps({**line, **({"exception": trace} if trace else {})}))
        pairs = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        head = f"{moment} {record.levelname.lower()} {record.name.removeprefix('gateway.')}: {text}"
        return text_without_keys(" ".join(filter(None, (head, pairs))) + (f"\n{trace}" if trace else ""))


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') or not text.isprintable() else text


def set_up(form: str, level: int = logging.INFO) -> None:
    """Send every log of the process to standard error, in one form; nothing else is configured anywhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(form))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def tell_request(outcome: Outcome) -> None:
    """Write the access line of one request."""
    fields: dict[str, object] = {
        "request_id": outcome.request_id,
        "client": outcome.client,
        "method": outcome.method,
        "route": outcome.route,
        "status": outcome.status,
        "cache": outcome.cache,
        "ms": round(outcome.duration * 1000, 3),
        "bytes": outcome.sent_bytes,
    }
    optional = {
        "query": outcome.query_id,
        "age": None if outcome.age is None else round(outcome.age, 1),
        "execution": outcome.execution_id or None,
        "reason": outcome.reason or None,
    }
    fields.update((name, value) for name, value in optional.items() if value is not None)
    access.info("request", extra={"fields": fields})


def tell_execution(end: ExecutionEnd) -> None:
    """Write the line of one execution that has ended."""
    fields = {
        "execution": end.id,
        "query": end.query_id,
        "result": end.result,
        "seconds": round(end.seconds, 3),
        "callers": end.callers,
    }
    events.info("execution ended", extra={"fields": fields})


class CredentialWatch:
    """One line for each change of what Redash thinks of a key."""

    def __init__(self) -> None:
        self._rejected: set[str] = set()

    def tell(self, call: UpstreamCall) -> None:
        """Look at one call to Redash."""
        if not call.accepted and call.credential not in self._rejected:
            self._rejected.add(call.credential)
            events.error("Redash rejects the key of credential '%s'", call.credential)
        elif call.accepted and call.status and call.credential in self._rejected:
            self._rejected.discard(call.credential)
            events.warning("Redash accepts the key of credential '%s' again", call.credential)
