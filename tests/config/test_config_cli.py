"""The command line, as its users run it: arguments, exit status, what is printed, the talk with the admin listener."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from config_helpers import BASE

from gateway import __version__, cli
from gateway.cli import admin_client
from gateway.config import token_hash

COMMANDS = [
    "demo",
    "serve",
    "check",
    "init",
    "token",
    "status",
    "explain",
    "purge",
    "reload",
    "completion",
    "man",
    "sandbox",
]


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "gateway", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, check=False, timeout=30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(BASE)
    return path


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert re.findall(r"^    (\w+)(?: |$)", done.stdout, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: redash-gateway {command}" in capsys.readouterr().out


def test_version() -> None:
    assert run("--version").stdout == f"redash-gateway {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serv"],
        ["serve", "--listen", "8080"],
        ["purge"],
        ["purge", "--query", "0"],
        ["purge", "--query", "1", "--all"],
        ["purge", "--scope", ""],
        ["demo", "--port", "65536"],
        ["status", "--admin", "localhost:8081"],
        ["status", "--admin", "http://user@h"],
        ["status", "--admin", "http://h", "-c", "x"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: redash-gateway" in capsys.readouterr().err


def test_token_prints_the_token_and_its_line() -> None:
    first, second = run("token").stdout, run("token").stdout
    token = first.splitlines()[0]
    assert re.fullmatch(r"rg_[\w-]{43}", token)
    assert f'token_sha256 = ["{token_hash(token)}"]' in first.splitlines()
    assert "only now" in first
    assert token not in second


def test_check_sums_up_a_right_file(config: Path) -> None:
    done = run("check", "-c", config, KEY="k" * 40)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{config}: ok\n")
    assert "c  can read, execute; through a; all queries that this key sees; 1 token" in done.stdout
    assert "q  query 42" in done.stdout
    assert "kkkk" not in done.stdout


def test_check_tells_all_mistakes_on_stderr(config: Path) -> None:
    config.write_text(BASE + "[serve]\n[log]\nformat = 3\n")
    done = run("check", "-c", config, KEY="k" * 40)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        [str(config), "serve"],
        [str(config), "log.format"],
    ]


def test_closed_pipe_is_quiet(config: Path) -> None:
    command = f"{sys.executable} -m gateway check -c {config}; echo ended >&2"
    pipe = subprocess.run(
        ["sh", "-c", f"({command}) | true"], capture_output=True, text=True, env=os.environ | {"KEY": "k"}, check=True
    )
    assert pipe.stderr == "ended\n"


def test_sandbox_tells_where_it_is_and_ends_quietly() -> None:
    command = [sys.executable, "-W", "error", "-m", "gateway", "sandbox", "--port", "0", "--redash", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.fullmatch(r"Redash sandbox at http://127.0.0.1:\d+, version 10.1.0\n", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand in for the module that builds the gateway: only what is handed to it matters here."""
    module: Any = types.ModuleType("gateway.app.serve")
    monkeypatch.setitem(sys.modules, "gateway.app.serve", module)
    return module  # type: ignore[no-any-return]


def test_demo_and_serve_hand_over_their_arguments(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    demo: Any = types.ModuleType("gateway.demo")
    demo.main = lambda *ports, once: sum(ports) + 8 * once
    monkeypatch.setitem(sys.modules, "gateway.demo", demo)
    monkeypatch.setattr("gateway.demo", demo, raising=False)
    app.serve = lambda path, listen: 0 if path == Path("x.toml") and listen == ["[::1]:1"] else 1
    assert cli.main(["demo", "--port", "1", "--admin-port", "2", "--sandbox-port", "4", "--once"]) == 15
    assert cli.main(["serve", "-c", "x.toml", "--listen", "[::1]:1"]) == 0


def test_interrupt_is_130_and_a_used_port_1(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    def in_use(*_: object) -> int:
        raise OSError(98, "Address already in use")

    app.serve = interrupted
    assert cli.main(["serve", "-c", "x"]) == 130
    app.serve = in_use
    assert cli.main(["serve", "-c", "x"]) == 1
    assert capsys.readouterr().err == "redash-gateway: [Errno 98] Address already in use\n"


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["credential a: rejected"], 1)])
def test_check_online_fails_with_redash(
    config: Path, failures: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("gateway.app.online_check")
    monkeypatch.setitem(sys.modules, "gateway.app.online_check", module)

    async def check_online(*_: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(notes=[], mistakes=failures)

    module.check_online = check_online
    monkeypatch.setenv("KEY", "k")
    assert cli.main(["check", "--online", "-c", str(config)]) == status


class Admin(BaseHTTPRequestHandler):
    """Answers as told by the server's `answers`, and notes what it was asked."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        self.server.asked.append((self.command, self.path, body, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        status, answer = self.server.answers.pop(0)  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["tcp", "unix"])
def admin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    server: Any
    if request.param == "tcp":
        server = socketserver.TCPServer(("127.0.0.1", 0), Admin)
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
    else:
        server = socketserver.UnixStreamServer(str(tmp_path / "a:80.sock"), Admin)
        server.url = f"unix:{tmp_path}/a:80.sock"
    server.asked, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


STATUS = {
    "version": "1.0",
    "upstream": {"up": True, "breaker": None, "seconds": 1.23456789},
    "clients": [{"name": "a", "requests": 10}, {"name": "evil\x1b[2J", "limits": [1, 2]}],
    "empty": [],
    "nothing": {},
}


def test_status_prints_whatever_there_is(admin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    admin.answers = [(200, STATUS), (200, STATUS)]
    assert cli.main(["status", "--admin", admin.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "version  1.0",
        "upstream",
        "  up       true",
        "  breaker  -",
        "  seconds  1.2 s",
        "clients",
        "  name      requests  limits",
        "  a         10        -",
        "  evil�[2J  -         1, 2",
        "empty    none",
        "nothing",
    ]
    assert cli.main(["status", "--json", "--admin", admin.url]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_purge_and_reload_send_the_token(
    admin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDASH_GATEWAY_ADMIN_TOKEN", "rg_t")
    wanted = [["--query", "42"], ["--dashboard", "3"], ["--dashboard", "ops"], ["--scope", "s"], ["--all"]]
    admin.answers = [(200, {"purged": 2})] * len(wanted) + [(200, b"")]
    assert [cli.main(["purge", "--admin", admin.url, *what]) for what in wanted] == [0, 0, 0, 0, 0]
    assert cli.main(["reload", "--admin", admin.url]) == 0
    assert [json.loads(body or "{}") for _, _, body, _ in admin.asked] == [
        {"query": 42},
        {"dashboard": 3},
        {"dashboard": "ops"},
        {"scope": "s"},
        {"all": True},
        {},
    ]
    assert {(command, path) for command, path, _, _ in admin.asked} == {("POST", "/purge"), ("POST", "/reload")}
    assert {token for _, _, _, token in admin.asked} == {"Bearer rg_t"}
    *purged, reloaded = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in purged] == [
        "purged 2 stored entries: the results of query 42",
        "purged 2 stored entries: the results of the queries on dashboard 3",
        "purged 2 stored entries: the results of the queries on dashboard ops",
        "purged 2 stored entries: what was fetched with credential 's'",
        "purged 2 stored entries: everything",
    ]
    assert reloaded == "reloaded: no key has changed"


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (401, {"detail": "no token"}, "answered 401: no token (REDASH_GATEWAY_ADMIN_TOKEN is not set)"),
        (500, {"message": "mistakes\x1b"}, "answered 500: mistakes�"),
        (404, [], "answered 404: no reason given"),
        (200, b"<html>", "answered 200, not in JSON"),
    ],
)
def test_what_went_wrong_is_told(
    admin: Any, status: int, answer: object, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.answers = [(status, answer)]
    assert cli.main(["reload", "--admin", admin.url]) == 1
    assert expected in capsys.readouterr().err


def test_a_token_that_is_refused_is_traced_to_its_variable(
    admin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDASH_GATEWAY_ADMIN_TOKEN", "rg_t")
    admin.answers = [(401, {"detail": "wrong"})]
    assert cli.main(["reload", "--admin", admin.url]) == 1
    assert "wrong (the token is taken from REDASH_GATEWAY_ADMIN_TOKEN)" in capsys.readouterr().err


def test_address_comes_from_the_configuration(admin: Any, config: Path) -> None:
    config.write_text(f'[admin]\nlisten = "{admin.url.removeprefix("http://")}"\n')
    admin.answers = [(200, {})]
    assert cli.main(["status", "-c", str(config)]) == 0


def test_nobody_there_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        for where in (f"http://127.0.0.1:{bound.getsockname()[1]}", f"unix:{tmp_path}/none.sock"):
            assert cli.main(["status", "--admin", where]) == 1
            assert capsys.readouterr().err.startswith(f"redash-gateway: nothing listens at {where}; ")


def test_an_answer_that_trickles_meets_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admin_client, "DEADLINE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert cli.main(["status", "--admin", f"http://127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert "within 0.2 s" in capsys.readouterr().err


def test_a_broken_token_is_not_quoted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("REDASH_GATEWAY_ADMIN_TOKEN", "rg_a\nrg_b")
    assert cli.main(["status"]) == 1
    assert "rg_" not in capsys.readouterr().err
