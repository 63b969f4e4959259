"""`check`, `serve` and a reload refuse a `cache.store` that names somebody else's file, in the same words."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from config_helpers import BASE

from gateway.app.operations import RuntimeOperations
from gateway.app.systemd import Supervisor
from gateway.errors import ConfigurationError

COMMANDS = ("check", "serve")


def run(command: str, config: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "gateway", command, "-c", str(config)]
    environ = os.environ | {"KEY": "k" * 40}
    return subprocess.run(arguments, capture_output=True, text=True, env=environ, check=False, timeout=30)


def written(directory: Path, store: str) -> Path:
    path = directory / "config.toml"
    path.write_text(f'{BASE}[cache]\nstore = "sqlite:{store}"\n')
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("store", ["notes.xlsx", "config.toml", "other.db"])
def test_a_foreign_file_is_a_configuration_error(tmp_path: Path, command: str, store: str) -> None:
    (tmp_path / "notes.xlsx").write_bytes(b"PK\x03\x04" + bytes(1000))
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE notes (text)")
        db.commit()
    config = written(tmp_path, store)
    before = {path.name: (path.read_bytes(), path.stat().st_mode) for path in tmp_path.iterdir()}
    done = run(command, config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{config}: cache.store: ")
    assert store in done.stderr
    assert "choose another path in cache.store" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: (path.read_bytes(), path.stat().st_mode) for path in tmp_path.iterdir()} == before


def test_check_makes_no_file(tmp_path: Path) -> None:
    config = written(tmp_path, "gateway.db")
    assert run("check", config).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


async def test_a_reload_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would say "this takes a restart", and the restart would fail."""
    monkeypatch.setenv("KEY", "k" * 40)
    (tmp_path / "notes.xlsx").write_bytes(b"PK\x03\x04" + bytes(1000))
    runtime: Any = SimpleNamespace(sharing=None, reload=SimpleNamespace(successful=True), supervisor=Supervisor({}))
    with pytest.raises(ConfigurationError, match=r"cache\.store: .*notes\.xlsx"):
        await RuntimeOperations(runtime, written(tmp_path, "notes.xlsx")).reload()
    assert not runtime.reload.successful
