"""The logs: one line a request, one line an event, as text or JSON, with every key and token taken out.

Nobody waits for whoever reads them: lines go through a bounded queue to a thread (`lines.py`).
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
from gateway.redash.redaction import text_without_keys
from gateway.telemetry.lines import Writer

events = logging.getLogger("gateway.events")

SETTLE_SECONDS: Final = 10.0
"""What changes to and fro is told once in so long."""

MOST_ALIKE: Final = 50
"""Warnings and errors of one kind within `SETTLE_SECONDS`; the rest is counted."""

_MOST_KINDS: Final = 10_000


_PLAIN: Final = re.compile(r"[A-Za-z0-9-]{1,36}").fullmatch
"""Words that hold no key or token: a key of Redash's has 40 characters, a token of ours has an underscore."""


def clean(text: str) -> str:
    """Return `text` without what looks like a key or token; most words of a line are told apart by a look."""
    return text if _PLAIN(text) else text_without_keys(text)


def _value(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else clean(str(value))


def _plain(value: object) -> str:
    """Write a value for the text form: quoted, if it could be taken for more than one word."""
    text = str(_value(value))
    return json.dumps(text) if not text or any(c in text for c in ' "=\\') or not text.isprintable() else text


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class _Stamp:
    """The time of a line, of unix milliseconds; what is the same for a second is written once only."""

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
    """Writes a record in the configured form, each part cleaned of keys before it is quoted, exceptions included."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception's trace follows in text on lines of its own, indented."""
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


class _Damper(logging.Filter):
    """Lets so many warnings of one kind pass; when they have become rare again, the next one says how many were not."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # since when, how many

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, str(record.msg))
        since, number = self._seen.get(kind, (record.created, 0))
        if record.created - since > SETTLE_SECONDS:
            if number > MOST_ALIKE:
                record.fields = {**getattr(record, "fields", {}), "not_logged": number - MOST_ALIKE}
            since, number = record.created, 0
        if len(self._seen) > _MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = (since, number + 1)
        return number < MOST_ALIKE


class Handler(logging.Handler):
    """Formats on the spot, so that a record's values are those of its moment, and leaves the writing to the thread."""

    def __init__(self, form: str, writer: Writer) -> None:
        super().__init__()
        self.writer = writer
        self.access_lines = AccessLines(form)
        self.setFormatter(Formatter(form))
        self.addFilter(_Damper())

    def emit(self, record: logging.LogRecord) -> None:
        """See the base class."""
        try:
            self.writer.put(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until everything is written, or the reader has proved too slow. `logging` calls it at exit."""
        self.writer.flush()


_handler: Handler | None = None


def set_up(form: str, level: int = logging.INFO) -> None:
    """Send every log of the process to standard error, in one form; nothing else is configured anywhere."""
    global _handler  # noqa: PLW0603 - the log of a process is one, as `logging` has it
    if _handler is not None:
        _handler.flush()
    _handler = Handler(form, Writer(sys.stderr, lambda number: _lost(form, number)))
    root = logging.getLogger()
    root.handlers = [_handler]
    root.setLevel(level)


def lines_dropped() -> int:
    """Return how many lines were lost because whoever reads the log was too slow."""
    return _handler.writer.dropped if _handler is not None else 0


def _lost(form: str, number: int) -> str:
    text = "lines of this log were dropped: whoever reads it is too slow"
    record = logging.LogRecord(events.name, logging.ERROR, "", 0, text, (), None)
    record.fields = {"dropped": number}
    return Formatter(form).format(record) + "\n"


_MILLISECONDS: Final = tuple(f"{micros / 1000:.3f}" for micros in range(1000))
"""What most requests take, as lines say it: writing a float costs as much as all else of a line."""

Hit = tuple[str, float, float, LineParts]
"""A known answer: its request id (ours, or found to be plain when it came), when it ended (monotonic), what it took
(seconds), and the rest of its line."""


def write_requests(told: Sequence[Outcome | Hit], ahead: float) -> None:
    """Write the access lines of requests that have ended; past `logging`, whose records cost more than a hit.

    `ahead` is what unix time has before the monotonic clock of what is told.
    """
    if _handler is not None:
        lines = _handler.access_lines.of(told, ahead)
        _handler.writer.put("".join(lines), len(lines))


def parts_of_line(outcome: Outcome) -> LineParts | None:
    """Return what answers that are alike have in common in their access lines, None where there are no lines."""
    return _handler.access_lines.parts_of(outcome) if _handler is not None else None


class AccessLines:
    """Writes access lines, quickly: what repeats from line to line is made once."""

    def __init__(self, form: str) -> None:
        self._json = form == "json"
        self._heads: dict[tuple[object, ...], str] = {}
        self._from, self._until, self._start = 0.0, 0.0, ""  # how all lines of one millisecond begin
        middle = '", "level": "info", "logger": "gateway.access", "message": "request"'
        self._before, self._end = ('{"time": "', "}\n") if self._json else ("", "\n")
        self._quote = '"' if self._json else ""
        self._middle = (middle if self._json else " info access: request") + self._mark("request_id") + self._quote
        names = ("bytes", "age", "upstream_ms", "execution", "trace")
        self._bytes, self._age, self._upstream, self._execution, self._trace = map(self._mark, names)

    def of(self, told: Iterable[Outcome | Hit], ahead: float) -> list[str]:
        """Return the lines of requests, each with its line feed; see `tell_requests`."""
        lines = []
        for one in told:
            if isinstance(one, tuple):
                request_id, ended, duration, (before, after) = one
            else:
                request_id, duration = self._inside(one.request_id), one.duration
                ended = one.started + duration
                before, after = self.parts_of(one)
            ended += ahead
            if not self._from <= ended < self._until:
                self._begin(ended)
            micros = int(duration * 1e6 + 0.5)
            ms = _MILLISECONDS[micros] if micros < 1000 else f"{duration * 1000:.3f}"
            lines.append(f"{self._start}{request_id}{before}{ms}{after}")
        return lines

    def _begin(self, moment: float) -> None:
        """Make what all lines of this millisecond begin with."""
        millisecond = int(moment * 1000)
        self._from, self._until = millisecond / 1000, (millisecond + 1) / 1000
        self._start = f"{self._before}{_stamp.of(millisecond)}{self._middle}"

    def parts_of(self, o: Outcome) -> LineParts:
        """Return what stands between a request's id and its milliseconds, and what follows those."""
        kind = (o.client, o.method, o.route, o.status, o.cache, o.reason, o.query_id)
        head = self._heads.get(kind) or self._head(kind)
        age = "" if o.age is None else f"{self._age}{o.age:.1f}"
        more = self._more(o) if o.execution_id or o.upstream_seconds or o.trace is not None else self._end
        return head, f"{self._bytes}{o.sent_bytes}{age}{more}"

    def _more(self, o: Outcome) -> str:
        """Return what only those lines have whose requests had to do with Redash, or with a trace."""
        more = f"{self._upstream}{o.upstream_seconds * 1000:.3f}" if o.upstream_seconds else ""
        if o.execution_id:
            more += f"{self._execution}{self._word(o.execution_id)}"
        if o.trace is not None:
            more += f"{self._trace}{self._word(o.trace.trace_id)}"
        return more + self._end

    def _word(self, text: str) -> str:
        return f"{self._quote}{self._inside(text)}{self._quote}"

    def _inside(self, text: str) -> str:
        """Return what stands between the quotes, where there are any; no key, and nothing that ends them."""
        if _PLAIN(text):
            return text
        return json.dumps(clean(text))[1:-1] if self._json else _plain(text)

    def _head(self, kind: tuple[object, ...]) -> str:
        if len(self._heads) >= _MOST_KINDS:
            self._heads.clear()
        names = ("client", "method", "route", "status", "cache", "reason", "query")
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
