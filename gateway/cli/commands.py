"""The table of all commands, and what happens with one: its exit status and its errors."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Final

from gateway.cli import arguments as parse
from gateway.cli import manual, places
from gateway.cli.admin_client import DEFAULT, TOKEN_VARIABLE
from gateway.cli.check import check
from gateway.cli.completion import SHELLS
from gateway.cli.definitions import Argument, Command, OneOf, Option, parser
from gateway.cli.init import DEFAULT_CLIENT, DEFAULT_LISTEN, DEFAULT_VARIABLE, init, token
from gateway.cli.running import explain, purge, reload, status
from gateway.cli.serving import demo, sandbox, serve
from gateway.cli.terminal import paint
from gateway.errors import ConfigurationError, GatewayError

_WHERE: Final = f"default: {places.VARIABLE}, else {' or '.join(map(str, places.PLACES))}"
_CONFIG: Final = Option(("-c", "--config"), f"the configuration (TOML); {_WHERE}", "FILE", parse=Path, completes="file")
_RUNNING: Final = OneOf(
    (
        Option(
            ("-c", "--config"),
            f"the gateway's configuration, for the address; {_WHERE}",
            "FILE",
            parse=Path,
            completes="file",
        ),
        Option(
            ("--admin",),
            f"address of the admin listener: http://… or unix:/… (default: by the configuration, else {DEFAULT})",
            "URL",
            parse=parse.address,
        ),
    )
)


def _port(flag: str, about: str, default: int) -> Option:
    return Option((flag,), f"{about} (default: {default}; with --once any free one)", "N", parse=parse.port)


_VARIABLES: Final = (
    (places.VARIABLE, "The configuration, if no option names one"),
    (TOKEN_VARIABLE, "The token that explain, purge and reload send"),
    ("NO_COLOR", "If it is set, nothing has colours"),
)


def _print(text: str) -> int:
    print(text, end="")
    return 0


COMMANDS: Final[tuple[Command, ...]] = (
    Command(
        "demo",
        "run a sandbox Redash, the gateway and its console without any configuration",
        demo,
        "--port 8080",
        (
            _port("--port", "port of the gateway", 8080),
            _port("--admin-port", "port of its admin listener", 8081),
            _port("--sandbox-port", "port of the sandbox Redash", 5000),
            Option(("--once",), "end with a verdict after the ten dashboards: exit status 0 if the gateway was better"),
        ),
    ),
    Command(
        "serve",
        "run the gateway until it is stopped",
        serve,
        "-c config.toml",
        (
            _CONFIG,
            Option(
                ("--listen",),
                "address for clients, instead of server.listen: host:port or unix:/path; may be given several times",
                "ADDRESS",
                parse=parse.listen,
                repeated=True,
            ),
        ),
    ),
    Command(
        "check",
        "list every mistake in a configuration, or summarise it",
        check,
        "-c config.toml --online",
        (_CONFIG, Option(("--online",), "also try Redash with every credential, and Redis if the store is there")),
    ),
    Command(
        "init",
        "write a commented configuration, or list what Redash keys see, with client tables to paste",
        init,
        "--url https://redash.example.com",
        (
            Option(
                ("-o", "--output"),
                "the file to write (default: %(default)s); it must not be there",
                "FILE",
                parse=Path,
                default=Path("config.toml"),
                completes="file",
            ),
            Option(("--url",), "URL of Redash; without it, the terminal is asked", "URL", parse=parse.redash_url),
            Option(
                ("--key-env",),
                f"variable that will hold the API key of a Redash user (default: {DEFAULT_VARIABLE})",
                "NAME",
                parse=parse.variable,
                repeated=True,
            ),
            Option(("--key-file",), "file with that key, instead", "FILE", completes="file", repeated=True),
            Option(
                ("--client",), f"name of the first client (default: {DEFAULT_CLIENT})", "NAME", parse=parse.table_name
            ),
            Option(("--listen",), f"address for clients (default: {DEFAULT_LISTEN})", "ADDRESS", parse=parse.listen),
            Option(
                ("--from-redash",),
                "write nothing: list what each key sees in the Redash at this URL, and print tables to paste",
                "URL",
                parse=parse.redash_url,
            ),
        ),
    ),
    Command("token", "create a client token and its line for the configuration", token),
    Command(
        "status",
        "show the state of a running gateway",
        status,
        "-c config.toml",
        (
            _RUNNING,
            OneOf(
                (
                    Option(("--json",), "print JSON"),
                    Option(("--watch",), "show it again every two seconds, until Ctrl-C"),
                )
            ),
        ),
    ),
    Command(
        "explain",
        f"say what a request would get, and why, without running anything; admin token in {TOKEN_VARIABLE}",
        explain,
        "--client sales --query 42 -p country=DE --max-age 600",
        (
            _RUNNING,
            Option(("--client",), "whose request", "NAME", parse=parse.client, required=True),
            Option(("--query",), "for the result of query N", "N", parse=parse.id_number, required=True),
            Option(
                ("-p", "--parameter"),
                "a value, as in a URL: NAME=VALUE; may be given several times",
                "NAME=VALUE",
                parse=parse.parameter,
                repeated=True,
            ),
            Option(("--max-age",), "accepted age in seconds, -1 for any (default: any)", "N", parse=parse.max_age),
            Option(("--json",), "print JSON"),
        ),
    ),
    Command(
        "purge",
        f"delete cached results of a running gateway; admin token in {TOKEN_VARIABLE}",
        purge,
        "--query 42",
        (
            _RUNNING,
            OneOf(
                (
                    Option(("--query",), "the results of query N", "N", parse=parse.id_number),
                    Option(("--data-source",), "of the queries of a data source", "N", parse=parse.id_number),
                    Option(("--tag",), "of the queries with a tag", "TAG", parse=parse.tag),
                    Option(
                        ("--dashboard",), "of the queries on a dashboard: its id or slug", "N", parse=parse.dashboard
                    ),
                    Option(("--scope",), "what was fetched with the credential of this name", "S", parse=parse.scope),
                    Option(("--all",), "everything"),
                ),
                required=True,
            ),
        ),
    ),
    Command(
        "reload",
        f"make a running gateway reload its configuration; admin token in {TOKEN_VARIABLE}",
        reload,
        "-c config.toml",
        (_RUNNING,),
    ),
    Command(
        "completion",
        "print a script that completes commands and options in a shell",
        lambda arguments: _print(SHELLS[arguments.shell](COMMANDS)),
        "bash",
        (Argument("shell", "the shell that runs it", tuple(SHELLS)),),
    ),
    Command(
        "man",
        "print the manual page",
        lambda _: _print(manual.page(COMMANDS, _VARIABLES)),
        "> redash-gateway.1",
    ),
    Command(
        "sandbox",
        "run the sandbox Redash alone",
        sandbox,
        "--port 5000",
        (
            Option(("--port",), "port to listen on (default: %(default)s)", "N", parse=parse.port, default=5000),
            Option(("--host",), "address to listen on (default: %(default)s)", "HOST", default="127.0.0.1"),
            Option(("--redash",), "its version (default: %(default)s)", choices=("8", "10", "25", "26"), default="26"),
        ),
    ),
)

logging.getLogger("gateway").addHandler(logging.NullHandler())
"""Commands say themselves what went wrong; without a handler, Python prints warnings, too. `serve` sets up its log."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (failed) or 2 (configuration). argparse exits with 2 for wrong usage."""
    arguments = parser(COMMANDS).parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except ConfigurationError as error:
        return _fail(error.mistakes, 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `redash-gateway status | head`; Python would print a second error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (GatewayError, OSError) as error:  # OSError: an address in use, a directory without permission
        return _fail([f"redash-gateway: {error}"], 1)
    return status


def _fail(lines: list[str], status: int) -> int:
    for line in lines:
        print(paint(line, "red", sys.stderr), file=sys.stderr)
    return status
