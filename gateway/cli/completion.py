"""Completion for bash, zsh and fish, made from the definitions of the commands. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.cli.definitions import PROGRAM, Argument, Command, Option

_FUNCTION: Final = "_redash_gateway"


def bash(commands: Sequence[Command]) -> str:
    """Return a script for bash: `source <(redash-gateway completion bash)`."""
    cases = "\n".join(f"        {command.name}) words='{' '.join(_words(command))}' ;;" for command in commands)
    values = "\n".join(
        f"        {'|'.join(f'{command.name}:{flag}' for flag in option.flags)}) {_bash_value(option)} ;;"
        for command in commands
        for option in command.flat
        if option.takes_value
    )
    names = " ".join(command.name for command in commands)
    return f"""# bash completion for {PROGRAM}
{_FUNCTION}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W '{names} --help --version' -- "$current")
        return
    fi
    case "${{COMP_WORDS[1]}}:$previous" in
{values}
    esac
    case "${{COMP_WORDS[1]}}" in
{cases}
        *) return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F {_FUNCTION} {PROGRAM}
"""


def _bash_value(option: Option) -> str:
    if option.completes == "file":
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return'
    if option.choices:
        return f"mapfile -t COMPREPLY < <(compgen -W '{' '.join(option.choices)}' -- \"$current\"); return"
    return "return"


def _words(command: Command) -> list[str]:
    places = [choice for each in command.options if isinstance(each, Argument) for choice in each.choices]
    return [*places, *(flag for option in command.flat for flag in option.flags), "--help"]


def zsh(commands: Sequence[Command]) -> str:
    """Return a script for zsh: a file `_redash-gateway` in a directory of `$fpath`."""
    described = "\n".join(f"        {_zsh_quoted(f'{command.name}:{command.about}')}" for command in commands)
    cases = "\n".join(f"        {command.name}) _arguments {_zsh_arguments(command)} ;;" for command in commands)
    return f"""#compdef {PROGRAM}
# zsh completion for {PROGRAM}
{_FUNCTION}() {{
    local -a commands
    commands=(
{described}
    )
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    local command="$words[2]"
    shift words
    ((CURRENT--))
    case "$command" in
{cases}
    esac
}}
compdef {_FUNCTION} {PROGRAM}
"""


def _zsh_arguments(command: Command) -> str:
    places = [each for each in command.options if isinstance(each, Argument)]
    specs = [_zsh_quoted(f"1:{place.name}:({' '.join(place.choices)})") for place in places]
    specs += [
        _zsh_quoted(f"{flag}[{_zsh_text(option)}]{_zsh_value(option)}")
        for option in command.flat
        for flag in option.flags
    ]
    return " ".join([*specs, _zsh_quoted("--help[show help]")])


def _zsh_text(option: Option) -> str:
    """Brackets and colons would end the text."""
    return plain(option).replace("[", "(").replace("]", ")").replace(":", ";")


def _zsh_value(option: Option) -> str:
    if not option.takes_value:
        return ""
    if option.completes == "file":
        return ":file:_files"
    return f":value:({' '.join(option.choices)})" if option.choices else ":value: "


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(commands: Sequence[Command]) -> str:
    """Return a script for fish: `redash-gateway completion fish | source`."""
    lines = [f"# fish completion for {PROGRAM}", f"complete -c {PROGRAM} -f"]
    for command in commands:
        about = f"-a {command.name} -d {_fish_quoted(command.about)}"
        lines.append(f"complete -c {PROGRAM} -n __fish_use_subcommand {about}")
        here = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {command.name}'"
        places = [each for each in command.options if isinstance(each, Argument)]
        lines += [f"{here} -a '{' '.join(place.choices)}' -d {_fish_quoted(place.help)}" for place in places]
        lines += [f"{here} {_fish_flags(option)} -d {_fish_quoted(plain(option))}" for option in command.flat]
    return "\n".join(lines) + "\n"


def _fish_flags(option: Option) -> str:
    flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    if option.completes == "file":
        flags.append("-r -F")
    elif option.choices:
        flags.append(f"-x -a '{' '.join(option.choices)}'")
    elif option.takes_value:
        flags.append("-x")
    return " ".join(flags)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def plain(option: Option) -> str:
    """Return the help text with the default in it."""
    return option.help.replace("%(default)s", str(option.default))


SHELLS: Final[Mapping[str, Callable[[Sequence[Command]], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}
