"""`init`: writes a first configuration, or lists what keys see in Redash, with client tables to paste; `token`."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import arguments as parse
from gateway.cli import template
from gateway.cli.template import Source
from gateway.cli.terminal import progress
from gateway.cli.text import grid, printable
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.app.survey import Seen

DEFAULT_VARIABLE: Final = "REDASH_API_KEY"
DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DEFAULT_CLIENT: Final = "dashboard"

_TRIES: Final = 5
_MOST_ROWS: Final = 100
_MOST_TABLES: Final = 20


def new_token() -> str:
    """Return 256 random bits as a token."""
    return f"rg_{secrets.token_urlsafe(32)}"


def token(_: argparse.Namespace) -> int:
    """Print a new token and its hash."""
    from gateway.config import token_hash  # noqa: PLC0415 - heavy

    made = new_token()
    print(f"{made}\n\nGive this token to the client: it is shown only now. Line for the client's table:\n")
    print(f'token_sha256 = ["{token_hash(made)}"]', "\nIn [admin], for the operator: without brackets.", sep="\n")
    return 0


def init(arguments: argparse.Namespace) -> int:
    """Write a configuration, or print what keys see."""
    sources = [Source("key_env", name) for name in arguments.key_env or ()]
    sources += [Source("key_file", str(Path(name).absolute())) for name in arguments.key_file or ()]
    if arguments.from_redash:
        return _from_redash(arguments.from_redash, sources or [Source("key_env", DEFAULT_VARIABLE)])
    return _write(arguments, sources)


def _write(arguments: argparse.Namespace, sources: list[Source]) -> int:
    from gateway.config import token_hash  # noqa: PLC0415

    file: Path = arguments.output
    if file.exists():
        raise GatewayError(f"{file} is there already, and init overwrites nothing; name another with --output")
    if len(sources) > 1:
        raise GatewayError("a first configuration has one key; more are added as tables [credentials.NAME]")
    url = arguments.url or _ask("URL of Redash, as in the browser", "--url", parse.redash_url)
    source = sources[0] if sources else _source(_ask_or_default(_KEY, DEFAULT_VARIABLE, _source))
    client = arguments.client or _ask_or_default("Name of the first client", DEFAULT_CLIENT, parse.table_name)
    listen = arguments.listen or _ask_or_default("Address for clients", DEFAULT_LISTEN, parse.listen)
    made = new_token()
    text = template.configuration(url, source, listen, client, token_hash(made))
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
    print(_next_steps(file, source, client, listen, made))
    return 0


_KEY: Final = "Environment variable with the API key of a Redash user, or a file with it (a path with a slash)"


def _source(text: str) -> Source:
    if "/" in text:
        return Source("key_file", str(Path(text).absolute()))
    return Source("key_env", parse.variable(text))


def _ask(question: str, option: str, check: Callable[[str], object]) -> str:
    """Ask on the terminal until the answer fits.

    Raises:
        GatewayError: there is no terminal, or no answer that fits.
    """
    if not sys.stdin.isatty():
        raise GatewayError(f"{option} is missing, and there is no terminal to ask on")
    return _asked(question, "", check)


def _ask_or_default(question: str, default: str, check: Callable[[str], object]) -> str:
    return _asked(question, default, check) if sys.stdin.isatty() else default


def _asked(question: str, default: str, check: Callable[[str], object]) -> str:
    for _ in range(_TRIES):
        try:
            text = input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
            check(text)
        except argparse.ArgumentTypeError as error:
            print(error, file=sys.stderr)
        except EOFError:
            break
        else:
            return text
    raise GatewayError("no usable answer; nothing was written")


def _next_steps(file: Path, source: Source, client: str, listen: str, made: str) -> str:
    from gateway.config.values import listen as address  # noqa: PLC0415

    config = "" if file == Path("config.toml") else f" -c {file}"
    key = f"  export {source.value}=...\n" if source.option == "key_env" and source.value not in os.environ else ""
    where = "http://localhost" if listen.startswith("unix:") else address(listen).url.replace("127.0.0.1", "localhost")
    unix = f"--unix-socket {listen.removeprefix('unix:')} " if listen.startswith("unix:") else ""
    return f"""{file} is written. The token of client '{client}', shown only now:

  {made}

Next:

{key}  redash-gateway check{config} --online
  redash-gateway serve{config}
  read -rs GATEWAY_TOKEN    # waits for the token, and shows nothing
  curl {unix}-H "Authorization: Key $GATEWAY_TOKEN" {where}/api/session
"""


def _from_redash(url: str, sources: list[Source]) -> int:
    from gateway import config  # noqa: PLC0415 - heavy
    from gateway.app.survey import survey  # noqa: PLC0415

    names = [f"key-{number}" for number in range(1, len(sources) + 1)]
    text = "".join(template.credential_table(*pair) for pair in zip(names, sources, strict=True))
    text += f"[upstream]\nurl = {template.quoted(url)}\n"
    text += f'[clients.init]\ntoken_sha256 = ["{config.token_hash(new_token())}"]\ncredentials = ["{names[0]}"]\n'
    settings = config.parse(text, Path.cwd(), os.environ, "init --from-redash")
    with progress() as say:
        found = asyncio.run(survey(settings, say))
    tokens: dict[str, str] = {}
    taken: set[str] = set()
    for seen, source in zip(found, sources, strict=True):
        print(_listed(seen))
        name = seen.user.name if len(sources) > 1 else template.DEFAULT_CREDENTIAL  # as in what `init` writes
        print(_tables(seen, source, template.table_name(name, taken), taken, tokens))
    for client, made in tokens.items():
        print(f"token of client {client}, shown only now: {made}", file=sys.stderr)
    return 0


def _listed(seen: Seen) -> str:
    """Return what one key sees, as comments: all of it can be pasted."""
    lines = [f"Key of {seen.user.name} ({seen.user.email}); data sources: {', '.join(seen.sources) or 'none'}"]
    for title, rows in (("queries", seen.queries), ("dashboards", seen.dashboards)):
        lines += ["", f"{len(rows)} {title}"]
        lines += grid([{"id": row.id, "name": row.name} for row in rows[:_MOST_ROWS]]) if rows else []
        lines += [f"and {len(rows) - _MOST_ROWS} more"] if len(rows) > _MOST_ROWS else []
    return "\n".join(f"# {printable(line)}".rstrip() for line in lines) + "\n"


def _tables(seen: Seen, source: Source, credential: str, taken: set[str], tokens: dict[str, str]) -> str:
    """Return the table of the key, and one for each dashboard; adds the tokens of these clients."""
    from gateway.config import token_hash  # noqa: PLC0415

    text = template.credential_table(credential, source)
    for board in seen.dashboards[:_MOST_TABLES]:
        client = template.table_name(board.name, taken)
        tokens[client] = new_token()
        text += f"\n# Dashboard {printable(board.name)}: only its queries\n"
        text += template.bound_client_table(client, token_hash(tokens[client]), credential, board.id)
    return text
