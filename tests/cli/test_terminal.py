"""What people see on a terminal: units, colours, what is being waited for; and what `purge` and `reload` have done."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.settings import SMALL

from gateway import cli
from gateway.cli import admin_client, running, terminal, text
from gateway.errors import GatewayError

Answer = Callable[..., None]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The responses of a gateway, in order; an error is raised."""
    responses: list[Any] = []

    def request(*_: object) -> Any:
        response = responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    monkeypatch.setattr(admin_client, "request", request)
    return responses


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both outputs are terminals."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for module in (terminal, running):
        monkeypatch.setattr(module, "is_terminal", lambda _: True)


# -- units


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("uptime_seconds", 192.0, "uptime  3 min 12 s"),
        ("p50_seconds", 0.00034, "p50  0.3 ms"),
        ("hit_rate", 0.942, "hit rate  94 %"),
        ("hit_rate", None, "hit rate  -"),
        ("bytes", 12_400_000, "bytes  12 MB"),
        ("at", 1_700_000_000.123, "at  2023-11-14 22:13:20 UTC"),
        ("requests", 12304, "requests  12304"),
        ("ready", True, "ready  true"),
        ("load", 0.123456, "load  0.123"),
    ],
)
def test_numbers_have_units_and_few_digits(key: str, value: object, expected: str) -> None:
    assert text.lines({key: value}) == [expected]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("at"), inner, max_size=3),
)


@given(JSON)
def test_any_json_is_text_without_control_characters(value: object) -> None:
    for line in text.lines({"member": value}):
        assert line.isprintable()


# -- watching


REPORT = {"verdict": "Serving.", "state": "good", "uptime_seconds": 61.0, "history": {"points": [1, 2]}}


def ticks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the watch be ended by Ctrl-C instead of its nth pause."""
    left = iter(range(count - 1))

    def pause(_: float) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(running.time, "sleep", pause)


def test_watch_shows_the_state_again_until_ctrl_c(
    gateway: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway += [REPORT, GatewayError("nothing listens there"), REPORT | {"uptime_seconds": 65.0}]
    ticks(monkeypatch, 3)
    assert cli.main(["status", "--watch"]) == 130
    first, second, third, _ = capsys.readouterr().out.split("\n\n")
    assert "1 min 1 s" in first
    assert second == "nothing listens there"
    assert "1 min 5 s" in third
    assert "history" not in first


@pytest.mark.usefixtures("screen")
def test_on_a_terminal_each_state_takes_the_place_of_the_last_one(
    gateway: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", "12")
    gateway.append(REPORT | {"rows": [{"row": number} for number in range(100)]})
    ticks(monkeypatch, 1)
    assert cli.main(["status", "--watch"]) == 130
    out = capsys.readouterr().out
    assert out.startswith("\x1b[H\x1b[2J\x1b[32mverdict")
    assert len(out.splitlines()) < 12


@pytest.mark.usefixtures("screen")
def test_a_watched_terminal_shows_the_work_before_the_rest(
    gateway: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LINES", "12")
    gateway.append(REPORT | {"version": "1", "outcomes": [{"outcome": str(n)} for n in range(9)], "refusals": []})
    gateway[0] |= {"hour": {"requests": 7}, "running": [{"query": 42}]}
    ticks(monkeypatch, 1)
    assert cli.main(["status", "--watch"]) == 130
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "][1:4] == ["state", "hour", "running"]
    assert "refusals" not in out  # an empty list takes no line
    assert "version" not in out


# -- colours


@pytest.mark.usefixtures("screen")
def test_errors_are_red_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", "/nowhere/config.toml"]) == 2
    assert capsys.readouterr().err.startswith("\x1b[31m/nowhere/config.toml: cannot be read")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert cli.main(["check", "-c", "/nowhere/config.toml"]) == 2
        assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stdout)
    assert cli.main(["check", "-c", "/nowhere/config.toml"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.usefixtures("screen")
def test_a_right_configuration_is_green_and_its_notes_are_yellow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY", "k" * 40)
    file = tmp_path / "config.toml"
    file.write_text(SMALL + '[server]\nmax_wait = "2m"\n')
    assert cli.main(["check", "-c", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"\x1b[32m{file}: ok\x1b[0m\n")
    assert "\x1b[33mnote: server.max_wait" in out


# -- signs of life


def test_what_takes_long_says_what_it_does_and_what_is_quick_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = threading.Event()

    class At(threading.Timer):
        """Ends at once what would take two seconds, when the test has got that far."""

        def run(self) -> None:
            begun.wait(10)
            self.function()

    with terminal.progress() as say:
        say("quick")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(threading, "Timer", At)
    with terminal.progress() as say:
        say("asking")
        begun.set()
        for thread in threading.enumerate():
            if isinstance(thread, At):
                thread.join(10)
        say("asking again")
    assert capsys.readouterr().err == "asking …\nasking again …\n"


# -- what was done


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "purged 1 stored entry: the results of query 42; a run under way is not stored\n"),
        (12, "purged 12 stored entries: the results of query 42; a run under way is not stored\n"),
        (
            0,
            "nothing to purge: of the results of query 42, nothing is stored\n"
            "Nobody has requested it through this gateway, or it was purged, edited or evicted since.\n",
        ),
    ],
)
def test_purge_says_what_it_has_deleted(
    count: int, expected: str, gateway: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.append({"purged": count})
    assert cli.main(["purge", "--query", "42"]) == 0
    assert capsys.readouterr().out == expected


def test_reload_says_what_has_changed_and_what_needs_a_restart(
    gateway: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    note = "cache.store has changed; this takes a restart"
    gateway += [{"changed": ["cache.store", "clients.new (new)"], "notes": [note]}, {"changed": [], "notes": []}]
    assert [cli.main(["reload"]) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().out.splitlines() == [
        "reloaded: cache.store, clients.new (new) changed",
        f"note: {note}",
        "reloaded: no key has changed",
    ]


def test_no_line_has_a_float_of_many_digits(gateway: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    gateway.append({"hour": {"hit_rate": 1 / 3, "p99_seconds": 1 / 3, "other": 1 / 3}})
    assert cli.main(["status"]) == 0
    assert re.findall(r"\d\.\d{4,}", capsys.readouterr().out) == []
