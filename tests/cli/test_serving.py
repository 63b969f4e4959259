"""The commands that run servers, before the servers run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gateway.cli import main


def test_a_reload_that_comes_while_it_starts_does_not_end_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By default SIGHUP ends a process, and imports take a second; what it would read again is yet to be read."""
    before = signal.getsignal(signal.SIGHUP)

    def start(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr("gateway.app.serve.serve", start)
    try:
        assert main(["serve", "-c", str(tmp_path / "config.toml")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
