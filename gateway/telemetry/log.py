"""The logs: one line per request and per event, as text or JSON, with every key and token removed.

A slow log reader never blocks requests: lines go through a bounded queue to a thread (`log_writer.py`).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gateway.outcome import ExecutionEnd, LineParts, Outcome
from gateway.redash.redaction import text_without_keys, without_own_keys
from gateway.telemetry.log_writer import LogWriter

events = logging.getLogger("gateway.events")

SETTLE_SECONDS: Final = 10.0
"""A state that flaps is logged at most once in this time."""

MOST_REPEATS: Final = 50
"""Lines of one kind logged within `SETTLE_SECONDS`; the rest is only counted."""

_MOST_KINDS: Final = 10_000


_PLAIN: Final = re.compile(r"[A-Za-z0-9-]{1,36}").fullmatch
"""Words that look like no key or token: a Redash key has 40 characters, a token of ours has an underscore."""


def clean(text: str) -> str:
    """Return `text` without anything that looks like a key or token; most words pass the quick check."""
    return without_own_keys(text) if _PLAIN(text) else text_without_keys(text)


def _value(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else clean(str(value))


def _plain(value: object) -> str:
    """Format a value for the text form; quoted, unless it is one plain word."""
    text = str(_value(value))
    return json.dumps(text) if not text or any(c in text for c in ' "=\\') or not text.isprintable() else text


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class _Stamp:
    """Formats unix milliseconds as the time of a line; the part down to the second is formatted once per second."""

    def __init__(self) -> None:
        self._known = (-1, "")  # one value: several threads write lines

    def of(self, millisecond: int) -> str:
        now, rest = divmod(millisecond, 1000)
        second, text = self._known
        if now != second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now))
            self._known = (now, text)
        return f"{text}{rest:03d}Z"


_stamp: Final = _Stamp()


class Formatter(logging.Formatter):
    """Formats a record as text or JSON; keys are removed from each part, exceptions included, before it is quoted."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; in text, an exception's traceback follows on indented lines of its own."""
        fields: Mapping[str, object] = getattr(record, "fields", {})
        text = clean(record.getMessage())
        trace = clean(self.formatException(record.exc_info)) if record.exc_info else ""
        moment, level, name = _stamp.of(int(record.created * 1000)), record.levelname.lower(), record.name
        if self._form == "json":
            line: dict[str, object] = {"time": moment, "level": level, "logger": name, "message": text}
            line |= {field: _value(value) for field, value in fields.items()}
            return json.dumps(line | ({"exception": trace} if trace else {}))
        pairs = "".join(f" {field}={_plain(value)}" for field, value in fields.items())
        below = "".join(f"\n  {_one_line(part)}" for part in trace.splitlines())
        return f"{moment} {level} {name.removeprefix('gateway.')}: {_one_line(text)}{pairs}{below}"


class _RepeatFilter(logging.Filter):
    """Limits lines of one kind, but events; when they are rare again, the next one says how many were not logged."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # first seen, number

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING and record.name == events.name:
            return True
        kind = (record.name, str(record.msg))
        since, number = self._seen.get(kind, (record.created, 0))
        if record.created - since > SETTLE_SECONDS:
            if number > MOST_REPEATS:
                record.fields = {**getattr(record, "fields", {}), "not_logged": number - MOST_REPEATS}
            since, number = record.created, 0
        if len(self._seen) > _MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = (since, number + 1)
        return number < MOST_REPEATS


class Handler(logging.Handler):
    """Formats at once, while a record's values are current, and leaves the writing to the thread."""

    def __init__(self, form: str, writer: LogWriter) -> None:
        super().__init__()
        self.writer = writer
        self.access_lines = AccessLines(form)
        self.setFormatter(Formatter(form))
        self.addFilter(_RepeatFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """See the base class."""
        try:
            self.writer.put(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until everything is written, or the reader is too slow. `logging` calls this at exit."""
        self.writer.flush()


_handler: Handler | None = None


def set_up(form: str, level: int = logging.INFO) -> None:
    """Send all logs of the process to standard error, in one form; nothing else configures logging."""
    global _handler  # noqa: PLW0603 - the log of a process is one, as `logging` has it
    if _handler is not None:
        _handler.flush()
    _handler = Handler(form, LogWriter(sys.stderr, lambda number: _lost(form, number)))
    root = logging.getLogger()
    root.handlers = [_handler]
    root.setLevel(level)


def lines_dropped() -> int:
    """Return how many lines were dropped because the log reader was too slow."""
    return _handler.writer.dropped if _handler is not None else 0


def _lost(form: str, number: int) -> str:
    text = "lines of this log were dropped: its reader is too slow"
    record = logging.LogRecord(events.name, logging.ERROR, "", 0, text, (), None)
    record.fields = {"dropped": number}
    return Formatter(form).format(record) + "\n"


_MILLISECONDS: Final = tuple(f"{micros / 1000:.3f}" for micros in range(1000))
"""Milliseconds of short requests as text: formatting a float costs as much as the rest of a line."""

Hit = tuple[str, str, float, float, LineParts, str]
"""A request served from the response cache: its id and its caller's address (known to be plain), its end (monotonic),
its duration (seconds), the rest of its line, and the id of its trace, "" without one."""


def write_requests(requests: Sequence[Outcome | Hit], offset: float) -> None:
    """Write the access lines of requests that have ended; not through `logging`, whose records cost more than a hit.

    `offset` is unix time minus monotonic time.
    """
    if _handler is not None:
        lines = _handler.access_lines.of(requests, offset)
        _handler.writer.put("".join(lines), len(lines))


def parts_of_line(outcome: Outcome) -> LineParts | None:
    """Return the parts of the access line that repeated identical requests share; None without an access log."""
    return _handler.access_lines.parts_of(outcome) if _handler is not None else None


class AccessLines:
    """Formats access lines quickly: repeated parts are formatted once."""

    def __init__(self, form: str) -> None:
        self._json = form == "json"
        self._heads: dict[tuple[object, ...], str] = {}
        self._from, self._until, self._start = 0.0, 0.0, ""  # the start of all lines of one millisecond
        middle = '", "level": "info", "logger": "gateway.access", "message": "request"'
        self._before, self._end = ('{"time": "', "}\n") if self._json else ("", "\n")
        self._quote = '"' if self._json else ""
        self._middle = (middle if self._json else " info access: request") + self._mark("request_id") + self._quote
        self._address = self._quote + self._mark("address") + self._quote
        names = ("bytes", "age", "upstream_ms", "execution", "trace")
        self._bytes, self._age, self._upstream, self._execution, self._trace = map(self._mark, names)

    def of(self, requests: Iterable[Outcome | Hit], offset: float) -> list[str]:
        """Return the lines of requests, each with its line feed; see `write_requests`."""
        lines = []
        for one in requests:
            if isinstance(one, tuple):
                request_id, address, ended, duration, (before, after), trace_id = one
                if trace_id:
                    after = f"{after.removesuffix(self._end)}{self._trace}{self._word(trace_id)}{self._end}"
            else:
                request_id, address, duration = self._inside(one.request_id), one.address, one.duration
                ended = one.ended
                before, after = self.parts_of(one)
            ended += offset
            if not self._from <= ended < self._until:
                self._begin(ended)
            micros = int(duration * 1e6 + 0.5)
            ms = _MILLISECONDS[micros] if micros < 1000 else f"{duration * 1000:.3f}"
            lines.append(f"{self._start}{request_id}{self._address}{address}{before}{ms}{after}")
        return lines

    def _begin(self, moment: float) -> None:
        """Format the start of all lines of this millisecond."""
        millisecond = int(moment * 1000)
        self._from, self._until = millisecond / 1000, (millisecond + 1) / 1000
        self._start = f"{self._before}{_stamp.of(millisecond)}{self._middle}"

    def parts_of(self, o: Outcome) -> LineParts:
        """Return the part between the caller's address and the milliseconds, and the part after them."""
        kind = (o.client, o.method, o.route, o.status, o.counted, o.miss, o.reason, o.query_id)
        head = self._heads.get(kind) or self._head(kind)
        age = "" if o.age is None else f"{self._age}{o.age:.1f}"
        rare = o.execution_id or o.redash_seconds or o.refused or o.trace is not None
        more = self._more(o) if rare else self._end
        return head, f"{self._bytes}{o.sent_bytes}{age}{more}"

    def _more(self, o: Outcome) -> str:
        """Return the end of the line, with the fields of requests that called Redash, were refused, or have a trace."""
        refused = f"{self._mark('refused')}{self._quoted(o.refused)}" if o.refused else ""
        more = refused + (f"{self._upstream}{o.redash_seconds * 1000:.3f}" if o.redash_seconds else "")
        if o.execution_id:
            more += f"{self._execution}{self._word(o.execution_id)}"
        if o.trace is not None:
            more += f"{self._trace}{self._word(o.trace.trace_id)}"
        return more + self._end

    def _word(self, text: str) -> str:
        return f"{self._quote}{self._inside(text)}{self._quote}"

    def _inside(self, text: str) -> str:
        """Return the text as it stands inside quotes, where the form has them: no key, and escaped."""
        if _PLAIN(text):
            return text
        return json.dumps(clean(text))[1:-1] if self._json else _plain(text)

    def _head(self, kind: tuple[object, ...]) -> str:
        if len(self._heads) >= _MOST_KINDS:
            self._heads.clear()
        names = ("client", "method", "route", "status", "cache", "miss", "reason", "query")
        pairs = [(name, value) for name, value in zip(names, kind, strict=True) if value not in ("", None)]
        fields = "".join(f"{self._mark(name)}{self._quoted(value)}" for name, value in pairs)
        head = f"{self._quote}{fields}{self._mark('ms')}"
        self._heads[kind] = head
        return head

    def _mark(self, name: str) -> str:
        return f', "{name}": ' if self._json else f" {name}="

    def _quoted(self, value: object) -> str:
        return json.dumps(_value(value)) if self._json else _plain(value)


def write_execution(end: ExecutionEnd) -> None:
    """Write the line of one execution that has ended."""
    fields = {
        "execution": end.id,
        "query": end.query_id,
        "result": end.result,
        "seconds": round(end.seconds, 3),
        "callers": end.callers,
    }
    events.info("execution ended", extra={"fields": fields})
