"""The commands: arguments, exit status, requests to the admin listener. Heavy modules are imported by their command."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway import __version__
from gateway.errors import ConfigurationError, GatewayError

_DEADLINE = 10.0
_PORTS = {"demo": {"--port": 8080, "--admin-port": 8081, "--sandbox-port": 5000}, "sandbox": {"--port": 5000}}
_PURGES = ("query", "dashboard", "scope", "all")
_DEFAULT_ADMIN = "http://127.0.0.1:8081"
_TOKEN_VARIABLE = "REDASH_GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable, not a token


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns 0, 1 (failed) or 2 (configuration). argparse exits with 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
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
        print(line, file=sys.stderr)
    return status


def _demo(arguments: argparse.Namespace) -> int:
    from gateway import demo  # noqa: PLC0415 - heavy, see the top of this file

    return demo.main(arguments.port, arguments.admin_port, arguments.sandbox_port)


def _serve(arguments: argparse.Namespace) -> int:
    from gateway.app.serve import serve  # noqa: PLC0415

    return serve(arguments.config)


def _check(arguments: argparse.Namespace) -> int:
    from gateway import config  # noqa: PLC0415
    from gateway.app.settings import load, remarks  # noqa: PLC0415

    loaded = load(arguments.config)
    notes = [f"note: {note}" for note in (*config.notes(loaded, time.time()), *remarks(loaded))]
    print(f"{arguments.config}: ok", *config.summary(loaded), *notes, sep="\n")
    if not arguments.online:
        return 0
    from gateway.app.online_check import check_online  # noqa: PLC0415

    found = asyncio.run(check_online(loaded))
    if not found.mistakes:
        print("online: Redash answers and accepts every credential", *found.notes, sep="\n")
    return _fail(found.mistakes, 1 if found.mistakes else 0)


def _token(_: argparse.Namespace) -> int:
    from gateway.config import token_hash  # noqa: PLC0415

    token = f"rg_{secrets.token_urlsafe(32)}"
    print(f"{token}\n\nGive this token to the client: it is shown only now. Line for the client's table:\n")
    print(f'token_sha256 = ["{token_hash(token)}"]', "\nIn [admin], for the operator: without brackets.", sep="\n")
    return 0


def _sandbox(arguments: argparse.Namespace) -> int:
    from gateway import sandbox  # noqa: PLC0415

    return sandbox.main(arguments.host, arguments.port, arguments.redash)


def _status(arguments: argparse.Namespace) -> int:
    response = _request(arguments, "GET", "/api/status")
    plain = {name: value for name, value in response.items() if name != "history"}  # too many points for a terminal
    print(json.dumps(response, indent=2) if arguments.json else "\n".join(_lines(plain)))
    return 0


def _purge(arguments: argparse.Namespace) -> int:
    wanted = {name: value for name, value in vars(arguments).items() if name in _PURGES and value}
    print("\n".join(_lines(_request(arguments, "POST", "/purge", wanted))) or "purged")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    print("\n".join(_lines(_request(arguments, "POST", "/reload"))) or "reloaded")
    return 0


class _UnixConnection(http.client.HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def _request(arguments: argparse.Namespace, method: str, path: str, body: object = None) -> Any:
    """Return the JSON response of the admin listener; `GatewayError` says in one line why there is none."""
    from gateway.config import admin_listen  # noqa: PLC0415

    where = admin_listen(arguments.config).url if arguments.config else arguments.admin
    headers = _headers()
    try:
        connection, base = _connection(where)
        with _deadline(), closing(connection):
            connection.request(method, base + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read(16 * 2**20)
    except (ConnectionRefusedError, FileNotFoundError):
        raise GatewayError(f"nothing listens at {where}; is the gateway running, with this admin listener?") from None
    except TimeoutError:
        raise GatewayError(f"no response from {where} within {_DEADLINE:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise GatewayError(f"cannot talk to {where}: {_printable(str(error) or type(error).__name__)}") from None
    return _parse_response(response.status, data, where)


def _connection(where: str) -> tuple[http.client.HTTPConnection, str]:
    if where.startswith("unix:/"):
        connection = _UnixConnection("localhost")
        connection.path = where.removeprefix("unix:")
        return connection, ""
    parts = urlsplit(where)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port), parts.path.rstrip("/")


@contextmanager
def _deadline() -> Iterator[None]:
    """Limit the time of the whole block, with name resolution; a socket's own timeout starts again with every byte."""

    def end(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": f"redash-gateway/{__version__}"}
    if token := os.environ.get(_TOKEN_VARIABLE, "").strip():
        if not re.fullmatch(r"[\x21-\x7e]+", token):  # http.client's own error would quote it
            raise GatewayError(f"the token in {_TOKEN_VARIABLE} contains characters that no token has")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _parse_response(status: int, data: bytes, where: str) -> Any:
    try:
        value = json.loads(data) if data.strip() else {}
    except ValueError:
        raise GatewayError(f"{where} answered {status}, not in JSON; is it the admin listener?") from None
    if 200 <= status < 300:
        return value
    reason = (value.get("detail") or value.get("message")) if isinstance(value, dict) else None
    hint = f" (the token is taken from {_TOKEN_VARIABLE})" if status in (401, 403) else ""
    raise GatewayError(f"{where} answered {status}: {_printable(str(reason or 'no reason given'))}{hint}")


def _lines(value: object, indent: str = "") -> list[str]:
    """Format any JSON as indented keys with values; lists of objects become tables."""
    if isinstance(value, list) and _nests(value):
        return _grid([row if isinstance(row, dict) else {"": row} for row in value], indent)
    if not isinstance(value, dict):
        return [indent + _cell(value)]
    lines = []
    width = max((len(key) for key, child in value.items() if not _nests(child)), default=0)
    for key, child in value.items():
        name = f"{indent}{_printable(key)}"
        lines.append(name if _nests(child) else f"{name:<{len(indent) + width}}  {_cell(child)}")
        lines += _lines(child, indent + "  ") if _nests(child) else []
    return lines


def _grid(rows: list[dict[str, Any]], indent: str) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    grid = [[_printable(name) for name in names], *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return [indent + "  ".join(map(str.ljust, line, widths)).rstrip() for line in grid]


def _nests(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_nests, value)))


def _cell(value: object) -> str:
    if isinstance(value, list) and not _nests(value):
        return ", ".join(map(_cell, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else _printable(value if isinstance(value, str) else json.dumps(value))


def _printable(text: str) -> str:
    """Replace control characters: names come from Redash's users and must not control the operator's terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


_COMMANDS: tuple[tuple[Callable[[argparse.Namespace], int], str, str], ...] = (
    (_demo, "run a sandbox Redash, the gateway and its console without any configuration", "--port 8080"),
    (_serve, "run the gateway until it is stopped", "-c config.toml"),
    (_check, "list every mistake in a configuration, or summarise it", "-c config.toml --online"),
    (_token, "create a client token and its line for the configuration", ""),
    (_status, "show the state of a running gateway", "-c config.toml"),
    (_purge, f"delete cached results of a running gateway; admin token in {_TOKEN_VARIABLE}", "--query 42"),
    (_reload, f"make a running gateway reload its configuration; admin token in {_TOKEN_VARIABLE}", "-c config.toml"),
    (_sandbox, "run the sandbox Redash alone", "--port 5000"),
)


def _parser() -> argparse.ArgumentParser:
    about = "A caching gateway in front of the Redash API. `redash-gateway COMMAND --help` explains each command."
    parser = argparse.ArgumentParser(prog="redash-gateway", description=about)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run, about, example in _COMMANDS:
        name = run.__name__.removeprefix("_")
        command = commands.add_parser(name, help=about, description=about, epilog=f"example: %(prog)s {example}")
        command.set_defaults(run=run)
        _options(name, command)
    return parser


def _options(name: str, command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    if name in ("serve", "check"):
        add("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    if name == "check":
        add("--online", action="store_true", help="also try Redash with every credential")
    for option, port in _PORTS.get(name, {}).items():
        add(option, type=_port, default=port, metavar="N", help="port to listen on (default: %(default)s)")
    if name == "sandbox":
        add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        add("--redash", choices=("8", "10", "25", "26"), default="26", help="its version (default: %(default)s)")
    if name in ("status", "purge", "reload"):
        where = command.add_mutually_exclusive_group()
        where.add_argument("-c", "--config", type=Path, metavar="FILE", help="its configuration, for the address")
        about = "address of the admin listener: http://… or unix:/… (default: %(default)s)"
        where.add_argument("--admin", type=_address, default=_DEFAULT_ADMIN, metavar="URL", help=about)
    if name == "status":
        add("--json", action="store_true", help="print JSON")
    if name == "purge":
        _purge_options(command.add_mutually_exclusive_group(required=True))


def _purge_options(what: argparse._MutuallyExclusiveGroup) -> None:
    what.add_argument("--query", type=_id, metavar="N", help="the results of query N")
    what.add_argument("--dashboard", type=_dashboard, metavar="N", help="of the queries on a dashboard: its id or slug")
    what.add_argument("--scope", type=_scope, metavar="S", help="what was fetched with the credential of this name")
    what.add_argument("--all", action="store_true", help="everything")


def _checked(kind: Callable[[str], object], pattern: str, wanted: str) -> Callable[[str], Any]:
    def read(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(wanted)
        return kind(text)

    return read


_port = _checked(int, "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]", "not a port")
_id = _checked(int, "[1-9][0-9]{0,15}", "an id is a whole number of at least 1")
_dashboard = _checked(lambda text: int(text) if text.isdecimal() else text, r"[\w-]{1,200}", "is no id and no slug")
_scope = _checked(str, r".*\S.*", "is empty")
_address = _checked(str, r"https?://[^/@\s]+(/\S*)?|unix:/.+", 'write "http://127.0.0.1:8081" or "unix:/run/name.sock"')
