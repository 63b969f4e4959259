"""`init` writes a configuration that passes `check`, and lists what keys see in a Redash."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from gateway import cli, config
from gateway.cli import init, template
from gateway.cli.template import Source
from gateway.sandbox import Sandbox


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDASH_API_KEY", "k" * 40)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answer from a terminal; the questions."""
    questions, left = [], iter(answers)

    def answer(question: str) -> str:
        questions.append(question)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    return questions


# -- writing


def test_by_options_the_file_passes_check(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--client", "sales", "--listen", "10.0.0.1:80", "--key-env", "KEY"]
    assert cli.main(["init", "--url", "https://redash.example.com/acme", *options]) == 0
    said = capsys.readouterr().out
    (token,) = set(re.findall(r"rg_[\w-]{43}", said))
    loaded = config.load(directory / "config.toml", {"KEY": "k" * 40})
    assert loaded.upstream.url == "https://redash.example.com/acme"
    assert [str(one) for one in loaded.server.listen] == ["10.0.0.1:80"]
    assert "10.0.0.1" in loaded.server.hosts
    assert loaded.clients["sales"].token_sha256 == (config.token_hash(token),)
    assert token not in (directory / "config.toml").read_text()
    assert "export KEY=..." in said
    assert said.count(token) == 1  # commands are pasted, and then stand in a history: no token in them
    assert 'curl -H "Authorization: Key $GATEWAY_TOKEN" http://10.0.0.1:80/api/session' in said


@pytest.mark.parametrize(
    ("listen", "curl"),
    [
        ("0.0.0.0:80", "http://localhost:80/"),  # what Host it gets must be among the hosts
        ("[::1]:80", "http://[::1]:80/"),
        ("unix:/run/api.sock", "--unix-socket /run/api.sock"),
    ],
)
def test_the_command_to_try_it_fits_the_address(
    listen: str, curl: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "--url", "https://r.example", "--listen", listen]) == 0
    said = capsys.readouterr().out
    assert curl in said
    host = re.search(r"http://(.*?)(?::80)?/api", said)
    assert host is not None
    assert host[1] in config.load(directory / "config.toml", {"REDASH_API_KEY": "k" * 40}).server.hosts


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:DIR/api.sock"])
def test_what_it_writes_passes_check_as_it_is(listen: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--url", "https://r.example", "--listen", listen.replace("DIR", str(directory))]) == 0
    assert "export" not in capsys.readouterr().out  # the variable is set
    assert cli.main(["check"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_key_file_may_be_relative(directory: Path) -> None:
    (directory / "key").write_text("k" * 40)
    (directory / "etc").mkdir()
    assert cli.main(["init", "--url", "https://r.example", "--key-file", "key", "-o", "etc/gateway.toml"]) == 0
    assert cli.main(["check", "-c", "etc/gateway.toml"]) == 0


def test_it_asks_on_a_terminal_until_the_answer_fits(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = typed(monkeypatch, "redash", "https://r.example", "", "a b", "board", "")
    assert cli.main(["init"]) == 0
    assert [question.partition(" [")[2] for question in questions] == [
        "",
        "",
        "REDASH_API_KEY]: ",
        "dashboard]: ",
        "dashboard]: ",
        "127.0.0.1:8080]: ",
    ]
    assert "is not a URL" in capsys.readouterr().err
    assert "[clients.board]" in (directory / "config.toml").read_text()


def test_the_key_may_be_in_a_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "https://r.example", "keys/reporting", "", "")
    assert cli.main(["init"]) == 0
    assert f'key_file = "{directory}/keys/reporting"' in (directory / "config.toml").read_text()


def test_options_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = typed(monkeypatch)
    options = ["--url", "https://r.example", "--key-env", "K", "--client", "c", "--listen", "127.0.0.1:1"]
    assert cli.main(["init", *options]) == 0
    assert questions == []


def test_without_answers_nothing_is_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init"]) == 1
    assert capsys.readouterr().err == "redash-gateway: --url is missing, and there is no terminal to ask on\n"
    for answers in ((), ("x",) * 9):
        typed(monkeypatch, *answers)
        assert cli.main(["init"]) == 1
    assert list(directory.iterdir()) == []


def test_nothing_is_overwritten(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "config.toml").write_text("mine")
    assert cli.main(["init", "--url", "https://r.example"]) == 1
    assert "--output" in capsys.readouterr().err
    assert (directory / "config.toml").read_text() == "mine"


def test_the_keys_in_comments_exist(directory: Path) -> None:
    """They are there to be used: without the "#", the file must still be right."""
    text = template.configuration("https://r.example", Source("key_env", "K"), "127.0.0.1:1", "c", "ab" * 32)
    (directory / "ca.pem").touch()
    used = re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text)
    assert used.count("\n#") < text.count("\n#")
    assert config.parse(used, directory, {"K": "k" * 40}).clients["c"].queries == {12, 42}


@pytest.mark.parametrize("text", ["Sales overview", "SALES overview!", "Übersicht", "", "–", "a" * 99])
def test_names_of_tables_are_usable_and_differ(text: str) -> None:
    taken: set[str] = set()
    names = [template.table_name(text, taken) for _ in range(3)]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,43}", name) for name in names)


# -- listing


async def listed(sandbox: Sandbox, *options: str) -> int:
    """In a thread: the command has an event loop of its own."""
    return await asyncio.to_thread(cli.main, ["init", "--from-redash", sandbox.url, *options])


async def test_the_tables_for_one_key_fit_what_init_writes(
    sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDASH_API_KEY", sandbox.user_keys["analyst"])
    assert cli.main(["init", "--url", sandbox.url]) == 0
    capsys.readouterr()
    assert await listed(sandbox) == 0
    clients = re.search(r"(?ms)^\[clients\..*", capsys.readouterr().out)
    assert clients is not None
    with (directory / "config.toml").open("a") as file:
        file.write(clients[0])
    assert await asyncio.to_thread(cli.main, ["check"]) == 0


async def test_it_lists_what_each_key_sees_with_tables_to_paste(
    sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDASH_API_KEY", sandbox.user_keys["analyst"])
    monkeypatch.setenv("OTHER", sandbox.user_keys["admin"])
    assert await listed(sandbox, "--key-env", "REDASH_API_KEY", "--key-env", "OTHER") == 0
    said = capsys.readouterr()
    assert "# Key of Ben Analyst (analyst@shop.example); data sources: Shop" in said.out
    assert "# Key of Ada Admin (admin@shop.example); data sources: Back office, Shop" in said.out
    assert re.search(r"(?m)^# 1 +Sales overview$", said.out)
    tables = tomllib.loads(said.out)
    assert tables["credentials"].keys() == {"ben-analyst", "ada-admin"}
    loaded = config.parse(
        f'[upstream]\nurl = "{sandbox.url}"\n{said.out}',
        directory,
        dict.fromkeys(["REDASH_API_KEY", "OTHER"], "k" * 40),
    )
    assert loaded.clients["sales-overview"].dashboards == {1}
    assert loaded.clients["sales-overview-2"].credentials == ("ada-admin",)
    tokens = dict(re.findall(r"(?m)^token of client (\S+), shown only now: (\S+)$", said.err))
    assert {name: (config.token_hash(token),) for name, token in tokens.items()} == {
        name: client.token_sha256 for name, client in loaded.clients.items()
    }
    assert not [key for key in sandbox.user_keys.values() if key in said.out + said.err]
    assert os.listdir(directory) == []


async def test_long_lists_are_read_to_their_end_and_shown_in_part(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(300):
        sandbox.add_query(f"Query\x1b {number}", "select 1")
    monkeypatch.setenv("REDASH_API_KEY", sandbox.user_keys["analyst"])
    assert await listed(sandbox) == 0
    said = capsys.readouterr().out
    assert f"# {300 + 29} queries\n" in said
    assert f"# and {300 + 29 - init._MOST_ROWS} more\n" in said
    assert "\x1b" not in said


async def test_a_key_that_redash_rejects_is_said_with_its_cause(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await listed(sandbox) == 2
    assert capsys.readouterr().err.startswith("credentials.key-1: Redash does not accept this key as a user's")
    assert await listed(sandbox, "--key-env", "NO_SUCH") == 2
    assert "the environment variable NO_SUCH is not set" in capsys.readouterr().err
