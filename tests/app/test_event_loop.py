"""The process runs on the event loop that `server.event_loop` names; a loop that cannot be had is said before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.loops import installed

from gateway import config
from gateway.app.operations import RuntimeOperations
from gateway.app.systemd import Supervisor
from gateway.errors import ConfigurationError

TEXT = f"""
[server]
listen = "127.0.0.1:0"
event_loop = "{{loop}}"
[admin]
listen = "127.0.0.1:0"
[upstream]
url = "http://127.0.0.1:9"
[cache]
store = "memory:"
[credentials.reporting]
kind = "user"
key_env = "KEY"
[clients.dashboard]
token_sha256 = ["{config.token_hash("rg_test")}"]
credentials = ["reporting"]
"""

MISSING = 'import sys; sys.modules["uvloop"] = None  # importing it fails'

COMMAND = """
import asyncio, os, signal, sys
from gateway import cli
from gateway.app import serve

async def tell_and_stop():
    print("on", type(asyncio.get_running_loop()).__module__, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()

run = serve.run
serve.run = lambda runtime: run(runtime, tell_and_stop)
sys.exit(cli.main(sys.argv[1:]))
"""


def written(directory: Path, loop: str) -> Path:
    path = directory / "config.toml"
    path.write_text(TEXT.format(loop=loop))
    return path


def command(name: str, file: Path, *, missing: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command; `serve` prints its loop once it serves, and stops. `missing`: as on a machine without uvloop."""
    code = f"{MISSING if missing else ''}\n{COMMAND}"
    arguments = [sys.executable, "-c", code, name, "-c", str(file)]
    environ = os.environ | {"KEY": "k" * 40}
    return subprocess.run(arguments, capture_output=True, text=True, env=environ, check=False, timeout=60)


def loop_of(file: Path, *, missing: bool = False) -> str:
    done = command("serve", file, missing=missing)
    assert done.returncode == 0, done.stderr
    return done.stdout.removeprefix("on ").strip()


@pytest.fixture
def uvloop() -> None:
    installed("uvloop")


@pytest.mark.usefixtures("uvloop")
@pytest.mark.parametrize("wanted", ["auto", "uvloop"])
def test_uvloop_is_taken_where_it_is_installed(tmp_path: Path, wanted: str) -> None:
    assert loop_of(written(tmp_path, wanted)) == "uvloop"


@pytest.mark.usefixtures("uvloop")
def test_asyncios_loop_is_taken_where_the_key_names_it(tmp_path: Path) -> None:
    assert loop_of(written(tmp_path, "asyncio")) == "asyncio.unix_events"


@pytest.mark.parametrize("wanted", ["auto", "asyncio"])
def test_without_uvloop_the_gateway_runs_on_asyncios_loop(tmp_path: Path, wanted: str) -> None:
    assert loop_of(written(tmp_path, wanted), missing=True) == "asyncio.unix_events"


@pytest.mark.parametrize("name", ["check", "serve"])
def test_a_loop_that_is_not_installed_is_a_configuration_error(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, "uvloop")
    done = command(name, file, missing=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{file}: server.event_loop: uvloop cannot be imported; install it ")
    assert "Traceback" not in done.stderr


def test_it_is_told_together_with_a_store_that_cannot_be_had(tmp_path: Path) -> None:
    # All mistakes are told at once.
    (tmp_path / "notes.xlsx").write_bytes(b"PK\x03\x04" + bytes(1000))
    file = written(tmp_path, "uvloop")
    file.write_text(file.read_text().replace("memory:", "sqlite:notes.xlsx"))
    lines = command("check", file, missing=True).stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["server.event_loop", "cache.store"]


async def test_a_reload_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would say "this takes a restart", and the restart would fail."""
    monkeypatch.setenv("KEY", "k" * 40)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    runtime: Any = SimpleNamespace(sharing=None, reload=SimpleNamespace(successful=True), supervisor=Supervisor({}))
    with pytest.raises(ConfigurationError, match=r"server\.event_loop: uvloop"):
        await RuntimeOperations(runtime, written(tmp_path, "uvloop")).reload()
    assert not runtime.reload.successful
