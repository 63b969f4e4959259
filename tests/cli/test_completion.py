"""Completion in real shells, and the manual page: both have what the definitions have."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import cli
from gateway.cli.commands import COMMANDS
from gateway.cli.completion import SHELLS

Needs = Callable[[str], str]

NAMES = {command.name for command in COMMANDS}
PURGE = {"-c", "--config", "--admin", "--query", "--data-source", "--tag", "--dashboard", "--scope", "--all"}


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


def run(*command: str, given: str = "", cwd: Path | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=cwd, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def in_bash(bash: str, text: str, line: str, cwd: Path) -> set[str]:
    words = line.split(" ")
    typed = " ".join(f"'{word}'" for word in words)
    asked = f"{text}\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n_redash_gateway 2>/dev/null\n"
    return set(run(bash, "--norc", given=f'{asked}printf "%s\\n" "${{COMPREPLY[@]}}"', cwd=cwd).split())


def test_bash_completes(needs: Needs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bash, text = needs("bash"), script("bash", capsys)
    (tmp_path / "gateway.toml").touch()
    for line, expected in (
        ("redash-gateway ", {*NAMES, "--help", "--version"}),
        ("redash-gateway re", {"reload"}),
        ("redash-gateway purge ", {*PURGE, "--help"}),
        ("redash-gateway purge --q", {"--query"}),
        ("redash-gateway purge --query ", set()),
        ("redash-gateway sandbox --redash 2", {"25", "26"}),
        ("redash-gateway completion ", {*SHELLS, "--help"}),
        ("redash-gateway serve -c gate", {"gateway.toml"}),
        ("redash-gateway nothing ", set()),
    ):
        assert in_bash(bash, text, line, tmp_path) == expected, line


def test_fish_completes(needs: Needs, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fish, text = needs("fish"), script("fish", capsys)
    for line, expected in (
        ("redash-gateway ", NAMES),
        ("redash-gateway purge --", {flag for flag in PURGE if flag.startswith("--")}),
        ("redash-gateway sandbox --redash ", {"8", "10", "25", "26"}),
        ("redash-gateway completion ", set(SHELLS)),
    ):
        out = run(fish, "--no-config", given=f"{text}\ncomplete -C '{line}'", cwd=tmp_path)
        found = {row.split("\t")[0] for row in out.splitlines()}
        assert found - {"--help"} == expected, line


def test_zsh_takes_the_script_and_it_names_everything(needs: Needs, capsys: pytest.CaptureFixture[str]) -> None:
    """Completion itself needs a terminal in zsh; its parser and what the script names are checked."""
    zsh, text = needs("zsh"), script("zsh", capsys)
    assert text.startswith("#compdef redash-gateway\n")
    run(zsh, "-f", "-n", given=text)
    for command in COMMANDS:
        assert f"'{command.name}:" in text
        line = re.search(rf"(?m)^        {command.name}\) _arguments (.*) ;;$", text)
        assert line is not None
        flags = [flag for option in command.flat for flag in option.flags]
        assert re.findall(r"'(--?[a-z-]+)\[", line[1]) == [*flags, "--help"]


def test_the_manual_page_has_every_command_and_option(needs: Needs, capsys: pytest.CaptureFixture[str]) -> None:
    mandoc = needs("mandoc")
    assert cli.main(["man"]) == 0
    page = capsys.readouterr().out
    run(mandoc, "-T", "lint", "-W", "error", given=page)
    shown = re.sub(r".\x08", "", run(mandoc, "-T", "utf8", given=page))
    for command in COMMANDS:
        section = shown.partition(f"\n   {command.name}\n")[2].partition("\n   ")[0]
        assert [flag for o in command.flat for flag in o.flags if flag not in shown] == []
        assert section or not command.options, command.name
    for name in ("REDASH_GATEWAY_CONFIG", "REDASH_GATEWAY_ADMIN_TOKEN", "NO_COLOR", "/etc/redash-gateway/config.toml"):
        assert name in shown


def test_another_shell_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["completion", "cmd"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err
