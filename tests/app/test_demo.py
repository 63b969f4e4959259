"""What the demo shows on a terminal, and when its verdict fails. The whole demo, as a process, is in test_commands."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo import dashboards, play
from gateway.demo.dashboards import Round

ROWS = [[{"orders": 1}]]


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (Round("with", 1.0, 1, ([[{"orders": 2}]],)), "the rows with are others than those without"),
        (Round("with", 1.0, 60, (ROWS,)), "60 executions with, and 60 without"),
        (Round("with", 9.0, 1, (ROWS,)), "9.0 s with, and 8.0 s without"),
        (Round("with", 7.9, 59, (ROWS,)), ""),
    ],
)
def test_the_verdict_is_on_rows_executions_and_time(worse: Round, reason: str) -> None:
    assert worse.worse_than(Round("without", 8.0, 60, (ROWS,))) == reason


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two dashboards whose queries take a moment; what the running gateway sets for its process is set back."""
    monkeypatch.setattr(play, "ORDERS", 200)
    monkeypatch.setattr(play, "TICK_SECONDS", 0.01)
    for module in (dashboards, play):
        monkeypatch.setattr(module, "DASHBOARDS", 2)
    monkeypatch.setattr(dashboards, "_SQL", dashboards._SQL.replace("0.3", "0.05"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("small")
async def test_once_ends_by_itself_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert await play._run(play.Ports(0, 0, 0), once=True) == 0
    lines = capsys.readouterr().out.splitlines()
    (without, with_it) = (line for line in lines if "executions" in line and "█" in line)
    assert re.search(r"without the gateway +██ .* 12 executions$", without)
    assert re.search(r"with the gateway +██ .* 6 executions$", with_it)
    assert lines[-1].startswith("Verdict: OK: ")


@pytest.mark.usefixtures("small")
async def test_a_verdict_that_fails_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Round, "worse_than", lambda *_: "as slow as before")
    assert await play._run(play.Ports(0, 0, 0), once=True) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Verdict: FAILED: as slow as before."


@pytest.mark.usefixtures("small")
async def test_interrupted_before_the_verdict_it_does_not_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    monkeypatch.setattr(dashboards.Wall, "open_all", endless)
    assert await play._run(play.Ports(0, 0, 0), once=True) == 130


@pytest.mark.usefixtures("small")
async def test_on_a_terminal_the_figures_are_live(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    figures = play.Demo._figures

    def watched(demo: play.Demo) -> str:
        shown.append(figures(demo))
        if len(shown) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return shown[-1]

    monkeypatch.setattr(play.Demo, "_figures", watched)
    monkeypatch.setattr(play, "is_terminal", lambda _: True)
    assert await play._run(play.Ports(0, 0, 0), once=False) == 0
    out = capsys.readouterr().out
    assert re.search(r"\r  without the gateway +█░ .*\r  without the gateway +██ ", out)
    assert "Ctrl-C stops everything" in out
    for line in shown:
        assert re.fullmatch(
            r"[\d,]+ requests · \d+ % without a run · 6 executions · 0 running · [\d.]+ m?s saved", line
        )
    assert shown[0] != shown[2]
