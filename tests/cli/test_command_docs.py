"""docs/command-line.md has every command with every option, and no other: held against the definitions of both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from gateway.cli.commands import COMMANDS
from gateway.cli.definitions import Argument, Command, parser

PAGE: Final = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
SECTIONS: Final = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", PAGE))


def test_every_command_has_its_section_and_no_other_has() -> None:
    assert list(SECTIONS) == [command.name for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_section_has_every_option_and_no_other(command: Command) -> None:
    rows = re.findall(r"(?m)^\| (`.*?`) \|", SECTIONS[command.name])
    found = [tuple(re.findall(r"`(--?[a-z-]+|[a-z]+)", row)) for row in rows]
    places = [(option.name,) for option in command.options if isinstance(option, Argument)]
    assert found == [*places, *(option.flags for option in command.flat)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_option_takes_a_value_in_the_section_if_it_does(command: Command) -> None:
    for option in command.flat:
        for flag in option.flags:
            value = re.search(rf"`{flag} ([A-Z=]+)`", SECTIONS[command.name])
            assert (value is not None) == option.takes_value, flag


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_section_names_defaults_and_choices(command: Command) -> None:
    for option in command.flat:
        for value in (option.default, *option.choices):
            assert value is None or str(value) in SECTIONS[command.name]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_help_is_in_one_line_to_be_pasted(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        parser(COMMANDS).parse_args([command.name, "--help"])
    assert f"example: redash-gateway {command.name} {command.example}".rstrip() in capsys.readouterr().out
