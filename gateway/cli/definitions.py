"""How a command and its options are defined: `--help`, completion, manual page and a test of docs are made of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from gateway import __version__

PROGRAM = "redash-gateway"
ABOUT = "A caching gateway in front of the Redash API."


class Option(NamedTuple):
    """One option; without `metavar` and `choices` it is a switch. `completes` is what a shell offers as its value.

    `repeated`: it may be given several times.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    parse: Callable[[str], Any] = str
    default: object = None
    choices: tuple[str, ...] = ()
    completes: Literal["", "file"] = ""
    repeated: bool = False
    required: bool = False

    @property
    def takes_value(self) -> bool:
        """Whether a value follows."""
        return bool(self.metavar or self.choices)

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Add it to a parser."""
        if self.takes_value:
            more: dict[str, Any] = {"choices": self.choices} if self.choices else {"metavar": self.metavar}
            more |= {"action": "append"} if self.repeated else {}
            more |= {"required": True} if self.required else {}
            parser.add_argument(*self.flags, type=self.parse, default=self.default, help=self.help, **more)
        else:
            parser.add_argument(*self.flags, action="store_true", help=self.help)


class OneOf(NamedTuple):
    """Options of which at most one is given, or exactly one."""

    options: tuple[Option, ...]
    required: bool = False


class Argument(NamedTuple):
    """What is given by its place, without a flag."""

    name: str
    help: str
    choices: tuple[str, ...]


class Command(NamedTuple):
    """One command; `run` returns the exit status."""

    name: str
    about: str
    run: Callable[[argparse.Namespace], int]
    example: str = ""
    options: tuple[Option | OneOf | Argument, ...] = ()

    @property
    def flat(self) -> Iterator[Option]:
        """Every option, those of groups included."""
        for option in self.options:
            if isinstance(option, OneOf):
                yield from option.options
            elif isinstance(option, Option):
                yield option


_EXAMPLE = "example: "


class _Help(argparse.HelpFormatter):
    """Breaks no example: it is there to be pasted."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return indent + text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)


def parser(commands: Sequence[Command]) -> argparse.ArgumentParser:
    """Return the parser of all commands; it exits with 2 for wrong usage."""
    about = f"{ABOUT} `{PROGRAM} COMMAND --help` explains each command."
    whole = argparse.ArgumentParser(prog=PROGRAM, description=about)
    whole.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parsers = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        example = f"{_EXAMPLE}%(prog)s {command.example}"
        one = parsers.add_parser(
            command.name, help=command.about, description=command.about, epilog=example, formatter_class=_Help
        )
        one.set_defaults(run=command.run)
        for option in command.options:
            _add(option, one)
    return whole


def _add(option: Option | OneOf | Argument, parser: argparse.ArgumentParser) -> None:
    if isinstance(option, OneOf):
        group = parser.add_mutually_exclusive_group(required=option.required)
        for each in option.options:
            each.add_to(group)
    elif isinstance(option, Argument):
        parser.add_argument(option.name, choices=option.choices, help=option.help)
    else:
        option.add_to(parser)
