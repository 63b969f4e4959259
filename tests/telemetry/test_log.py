"""The logs: one line per request, no secret in any line, no storm, and no request blocked by a slow reader."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import string
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.process import Process
from support.world import World

from gateway.errors import GatewayError
from gateway.outcome import Outcome, Trace, UpstreamCall
from gateway.redash.matching import match
from gateway.telemetry import log, log_writer
from gateway.telemetry.health import TransitionLog, UpstreamHealth
from gateway.telemetry.log_writer import LogWriter

FORMS = ("text", "json")

KEYS = st.text(string.ascii_letters + string.digits, min_size=40, max_size=40).filter(
    lambda key: not (key.isdigit() or key.islower() or key.isupper())
)
TOKENS = st.text(string.ascii_letters + string.digits + "-_", min_size=43, max_size=43).map("rg_".__add__)
SECRETS = KEYS | TOKENS
AROUND = st.text(max_size=12)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What goes to standard error while the log is set up; the process's own log is put back afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers, root.level
    monkeypatch.setattr(log, "LogWriter", lambda _, lost: LogWriter(stream, lost))
    monkeypatch.setattr(log, "_handler", None)
    yield stream
    root.handlers = before
    root.setLevel(level)


def flushed(stream: io.StringIO) -> list[str]:
    for handler in logging.getLogger().handlers:
        handler.flush()
    return stream.getvalue().splitlines()


def hit() -> Outcome:
    outcome = Outcome(
        request_id="a" * 32,
        address="198.51.100.1",
        method="POST",
        route="/api/queries/{query_id}/results",
        client="sales",
    )
    outcome.status, outcome.query_id, outcome.duration, outcome.sent_bytes = 200, 42, 0.00123, 1024
    outcome.record_hit(30.0, 12.34, 0.5)
    return outcome


# -- the lines


def line_of(outcome: Outcome, form: str) -> str:
    (line,) = log.AccessLines(form).of([outcome], 1764000000.25 - outcome.started - outcome.duration)
    assert line.endswith("\n")
    return line[:-1]


def test_an_access_line_in_text() -> None:
    outcome = hit()
    outcome.upstream_seconds, outcome.execution_id = 0.0255, "3f2b8c1e-0000-4000-8000-000000000000"
    outcome.trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert line_of(outcome, "text") == (
        "2025-11-24T16:00:00.250Z info access: request request_id=" + "a" * 32 + " address=198.51.100.1 client=sales"
        " method=POST"
        " route=/api/queries/{query_id}/results status=200 cache=hit query=42 ms=1.230 bytes=1024 age=12.3"
        " upstream_ms=25.500 execution=3f2b8c1e-0000-4000-8000-000000000000 trace=4bf92f3577b34da6a3ce929d0e0e4736"
    )


def test_an_access_line_in_json() -> None:
    outcome = hit()
    outcome.cache, outcome.reason, outcome.status = "none", "bad_request", 400
    assert json.loads(line_of(outcome, "json")) == {
        "time": "2025-11-24T16:00:00.250Z",
        "level": "info",
        "logger": "gateway.access",
        "message": "request",
        "request_id": "a" * 32,
        "address": "198.51.100.1",
        "client": "sales",
        "method": "POST",
        "route": "/api/queries/{query_id}/results",
        "status": 400,
        "cache": "none",
        "reason": "bad_request",
        "ms": 1.23,
        "bytes": 1024,
        "query": 42,
        "age": 12.3,
    }


def record(
    message: str, *args: object, fields: dict[str, object] | None = None, error: bool = False
) -> logging.LogRecord:
    made = logging.LogRecord("gateway.test", logging.WARNING, "", 0, message, args, sys.exc_info() if error else None)
    made.fields = fields or {}
    return made


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    forged = "no\n2026-01-01T00:00:00.000Z info access: request\r\x1b[31m\u2028"
    line = log.Formatter("text").format(record("%s", forged, fields={"why": forged}))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_a_traceback_cannot_forge_log_lines() -> None:
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z info events: forged")
    except ValueError:
        text = log.Formatter("text").format(record("failed", error=True))
    assert len(text.splitlines()) > 2
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


async def test_lines_of_one_execution_carry_its_id(world: World, written: io.StringIO) -> None:
    log.set_up("json")
    world.runtime.telemetry.observer.access_log = True
    job = (await world.post("by_country", max_age=0)).job
    await world.finish(job["id"])
    said = [json.loads(line) for line in flushed(written)]
    (ended,) = [line for line in said if line["message"] == "execution ended"]
    requests = [line for line in said if line["message"] == "request"]
    assert {line["execution"] for line in requests} == {ended["execution"]}
    assert requests[0]["upstream_ms"] > 0
    assert requests[0]["query"] == ended["query"] == world.named["by_country"]


# -- nothing secret


@given(secret=SECRETS, before=AROUND, after=AROUND, form=st.sampled_from(FORMS))
def test_no_secret_is_in_an_event(secret: str, before: str, after: str, form: str) -> None:
    text = before + secret + after
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(text) from error
    except ValueError:
        made = record("message %s", text, fields={"field": text, "nested": [text], "bytes": text.encode()}, error=True)
    line = log.Formatter(form).format(made)
    assert secret not in line
    if form == "json":
        assert secret not in str(json.loads(line))


@given(secret=SECRETS, before=AROUND, after=AROUND, form=st.sampled_from(FORMS), data=st.data())
def test_no_secret_is_in_an_access_line(secret: str, before: str, after: str, form: str, data: Any) -> None:
    outcome = hit()
    name = data.draw(st.sampled_from(["request_id", "method", "route", "client", "reason", "execution_id"]))
    setattr(outcome, name, before + secret + after)
    line = line_of(outcome, form)
    assert secret not in line
    assert len(line.splitlines()) == 1
    if form == "json":
        assert secret not in str(json.loads(line))


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/queries?api_key=short",
        "GET /api/queries?api%5Fkey%3Dshort",
        "{'Authorization': 'Key short'}",
        "Authorization: Basic short",
        'headers "authorization":"Bearer short"',
    ],
)
def test_a_value_in_the_place_of_a_key_is_removed_however_short(text: str) -> None:
    assert "short" not in log.clean(text)


@pytest.mark.parametrize("text", ["", "hello", "8d3f0a52-6c1e-4c3e-9d7c-2f1b6f1d2c3a", "x" * 128, "1" * 60])
def test_other_text_stays(text: str) -> None:
    assert log.clean(text) == text


# -- no storm


def test_a_storm_of_one_kind_is_limited_and_counted(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    log.set_up("text")
    logger = logging.getLogger("gateway.storm")
    for number in range(1000):
        logger.error("trouble %d", number)
    logger.warning("something else")
    assert len(flushed(written)) == log.MOST_REPEATS + 1
    monkeypatch.setattr(log, "SETTLE_SECONDS", -1.0)
    logger.error("trouble %d", 1000)
    assert flushed(written)[-1].endswith(f"trouble 1000 not_logged={1000 - log.MOST_REPEATS}")


def test_a_storm_of_recoveries_is_limited_but_events_are_not(written: io.StringIO) -> None:
    """What fails and works again many times in a second has two lines each time."""
    log.set_up("text")
    for number in range(1000):
        logging.getLogger("gateway.storm").info("works again: %d", number)
    assert len(flushed(written)) == log.MOST_REPEATS
    for number in range(100):
        log.events.info("event %d", number)
    assert len(flushed(written)) == log.MOST_REPEATS + 100


def call(status: int = 200, *, accepted: bool = True, failure: str = "") -> UpstreamCall:
    return UpstreamCall("/api/x", status, 0.1, "reporting", accepted, "GET", failure)


def test_one_line_for_each_change_of_state(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SETTLE_SECONDS", 0.0)
    health = UpstreamHealth()
    for state in (call(), call(0, failure="upstream_error"), call(0, failure="upstream_timeout"), call(), call()):
        health.record(state)
    for state in (call(404, accepted=False), call(404, accepted=False), call(0, failure="upstream_error"), call()):
        health.record(state)
    for is_open in (False, True, True, False, False):
        health.breaker.record(bad=is_open)
    assert [record.getMessage() for record in caplog.records] == [
        "Redash is unavailable: GET /api/x: upstream_error",
        "Redash is available again",
        "Redash rejects the key of credential 'reporting'",
        "Redash is unavailable: GET /api/x: upstream_error",
        "Redash is available again",
        "Redash accepts the key of credential 'reporting' again",
        "Redash does not work and is left alone for a while (the breaker is open)",
        "Redash is asked again (the breaker is closed)",
    ]


def test_a_flapping_state_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    transitions = TransitionLog("bad", "good")
    for number in range(100):
        transitions.record(bad=number % 2 == 0)
    assert [record.getMessage() for record in caplog.records] == ["bad"]


async def test_an_outage_of_redash_is_two_changes(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "SETTLE_SECONDS", 0.0)
    await world.sandbox.disconnect()
    for _ in range(20):
        assert (await world.get("/api/data_sources")).status in (502, 503)
    await world.sandbox.reconnect()
    world.clock.turn(60)
    for _ in range(5):
        assert (await world.get("/api/data_sources")).status == 200
    said = [record.getMessage().partition(":")[0] for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "Redash is unavailable",
        "Redash does not work and is left alone for a while (the breaker is open)",
        "Redash is available again",
        "Redash is asked again (the breaker is closed)",
    ]


# -- a slow reader blocks nobody


class Pipe:
    """A pipe that is not read until `read_all`."""

    def __init__(self) -> None:
        self.out, into = os.pipe()
        self.stream = os.fdopen(into, "w")

    def read_all(self) -> threading.Thread:
        self.data = b""

        def read() -> None:
            while data := os.read(self.out, 1 << 16):
                self.data += data

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread


def test_a_full_pipe_blocks_nobody_and_lost_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MOST_CHARACTERS", 100_000)
    pipe = Pipe()
    writer = LogWriter(pipe.stream, lambda number: f"lost {number}\n")
    longest = 0.0
    for number in range(20_000):
        began = time.perf_counter()
        writer.put(f"{number:06d} " + "x" * 100 + "\n")
        longest = max(longest, time.perf_counter() - began)
    assert longest < 5  # not the blocking of a pipe: that would never end
    assert writer.dropped > 10_000
    reader = pipe.read_all()
    writer.flush(10)
    pipe.stream.close()
    reader.join(10)
    text = pipe.data.decode().splitlines()
    assert len([line for line in text if re.fullmatch(r"\d{6} x+", line)]) == 20_000 - writer.dropped
    assert [line for line in text if line.startswith("lost")] == [f"lost {writer.dropped}"]


def test_what_waits_for_a_slow_reader_is_bounded_in_characters() -> None:
    # 20,000 lines were the bound, however long they were.
    writer = LogWriter(Pipe().stream, str)
    long = "x" * 1_000_000 + "\n"
    for _ in range(12):
        writer.put(long)
    assert writer.dropped >= 3


def test_exit_does_not_wait_for_ever_for_a_reader() -> None:
    pipe = Pipe()
    writer = LogWriter(pipe.stream, str)
    for _ in range(5000):
        writer.put("x" * 100 + "\n")
    began = time.monotonic()
    writer.flush(0.2)
    assert time.monotonic() - began < 5
    pipe.read_all()
    writer.flush(10)


def test_a_closed_stream_does_no_harm() -> None:
    stream = io.StringIO()
    stream.close()
    writer = LogWriter(stream, str)
    writer.put("into the void\n")
    writer.flush()
    assert writer.dropped == 1


async def test_the_last_lines_are_written_when_the_process_ends(tmp_path: Path, bare: World) -> None:
    await bare.start()
    (tmp_path / "config.toml").write_text(bare.text.replace("access = false", 'access = true\nformat = "json"'))
    keys = {f"KEY_{name.upper()}": key for name, key in bare.sandbox.user_keys.items()}
    keys |= {f"QUERY_KEY_{query_id}": bare.sandbox.query_key(query_id) for query_id in bare.sandbox.queries}
    await bare.runtime.stop()
    process = await Process.start("serve", "-c", "config.toml", cwd=tmp_path, env=keys)
    said = await process.says(r"serves ([\w.:]+), admin")
    async with bare.session.get(f"http://{said[1]}/ping") as response:
        assert response.status == 200
    process.child.terminate()
    assert await process.ended() == 0
    messages = [json.loads(line)["message"] for line in process.lines]
    assert "request" in messages
    stop = ["SIGTERM has come", "stopping: open requests have 2 s to end", "every response is complete", "stopped"]
    assert [message for message in messages if message in stop] == stop


# -- refusals


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_line_of_a_refusal_says_what_was_refused(form: str) -> None:
    # Else an operator sees 421 or 404 of a client and cannot tell which name or path it should not use.
    outcome = hit()
    outcome.refused = 'host "evil" example'
    line = line_of(outcome, form)
    assert (json.loads(line)["refused"] if form == "json" else line).count("evil") == 1
    assert '\\"evil\\"' in line


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/quries/42/results", "/api/quries/{id}/results"),
        ("/api/queries/42/results.PDF", "/api/queries/{id}/..."),
        ("/api/rg_abcdefghijklmnopqrstuv", "/api/..."),
        ("/" + "Ab1" * 14, "/..."),
        ("/api" + "/x" * 2_000, "/api" + "/x" * 8),
        ("/api//queries/%2e%2e", "/api//queries/..."),
    ],
)
def test_paths_are_shown_by_their_shape(path: str, shape: str) -> None:
    # A segment may be a token that somebody put in the wrong place.
    with pytest.raises(GatewayError) as caught:
        match("GET", path)
    assert caught.value.refused == f"path {shape}"


async def test_refused_hosts_and_paths_are_in_the_log(world: World, written: io.StringIO) -> None:
    log.set_up("json")
    world.runtime.telemetry.observer.access_log = True
    assert (await world.call("GET", "/api/queries", headers={"Host": "dashboards.example"})).status == 421
    assert (await world.get("/api/quries/1")).status == 404
    world.runtime.telemetry.observer.flush()
    said = [json.loads(line) for line in flushed(written)]
    refused = [line["refused"] for line in said if line["message"] == "request"]
    assert refused == ["host dashboards.example", "path /api/quries/{id}"]
