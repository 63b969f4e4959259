"""The manual page, in the language of man(7), made from the definitions of the commands. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gateway import __version__
from gateway.cli.completion import plain
from gateway.cli.definitions import ABOUT, PROGRAM, Argument, Command, OneOf, Option

EXIT_STATUS: Final = (
    ("0", "Done."),
    ("1", "Failed, for example because an address is in use or no gateway runs."),
    ("2", "Wrong usage, or the configuration has mistakes."),
    ("130", "Ended by Ctrl-C."),
)
FILES: Final = (
    ("config.toml", "The configuration in the current directory."),
    ("/etc/redash-gateway/config.toml", "The configuration, if there is none in the current directory."),
)


def page(commands: Sequence[Command], variables: Sequence[tuple[str, str]]) -> str:
    """Return the page; `variables` are those of the environment, with what each is for."""
    lines = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escaped(PROGRAM)} \\- {_escaped(ABOUT.rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_escaped(PROGRAM)}",
        ".I COMMAND",
        "[options]",
        ".SH COMMANDS",
        *(line for command in commands for line in _command(command)),
    ]
    for title, rows in (("ENVIRONMENT", variables), ("FILES", FILES), ("EXIT STATUS", EXIT_STATUS)):
        lines.append(f".SH {title}")
        lines += [line for name, text in rows for line in _item(name, text)]
    return "\n".join(lines) + "\n"


def _command(command: Command) -> Iterator[str]:
    yield f".SS {_escaped(command.name)}"
    yield _sentence(command.about)
    for option in command.options:
        if isinstance(option, OneOf):
            yield from ([".PP", "One of these:"] if option.required else [])
            for each in option.options:
                yield from _option(each)
        elif isinstance(option, Argument):
            yield from _item("|".join(option.choices), option.help)
        else:
            yield from _option(option)
    if command.example:
        yield from (".PP", f"Example: {_escaped(f'{PROGRAM} {command.name} {command.example}')}")


def _option(option: Option) -> Iterator[str]:
    value = option.metavar or "|".join(option.choices)
    yield from _item(", ".join(f"{flag} {value}".rstrip() for flag in option.flags), plain(option))


def _item(name: str, text: str) -> list[str]:
    return [".TP", f".B {_escaped(name)}", _sentence(text)]


def _sentence(text: str) -> str:
    return _escaped(text[:1].upper() + text[1:].rstrip(".") + ".")


def _escaped(text: str) -> str:
    """Escape what means something in roff: backslashes, hyphens that are typed, a dot or quote at the start."""
    plain_text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{plain_text}" if plain_text.startswith((".", "'")) else plain_text
