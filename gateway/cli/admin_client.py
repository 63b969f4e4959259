"""Requests to the admin listener of a running gateway; it answers in JSON."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway import __version__
from gateway.cli import places
from gateway.cli.text import printable
from gateway.errors import GatewayError

DEFAULT: Final = "http://127.0.0.1:8081"
TOKEN_VARIABLE: Final = "REDASH_GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable, not a token
DEADLINE_SECONDS: Final = 10.0
_MOST_BYTES: Final = 16 * 2**20


class _UnixConnection(http.client.HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def address(arguments: argparse.Namespace) -> str:
    """Return where the gateway's admin listener is: by `--admin`, by the configuration, or by default.

    Raises:
        ConfigurationError: the configuration does not say it.
    """
    from gateway.config import admin_listen  # noqa: PLC0415 - not needed with --admin

    if arguments.admin:
        return str(arguments.admin)
    file: Path | None = arguments.config or places.named_or_readable()
    return DEFAULT if file is None else admin_listen(file).url


def request(where: str, method: str, path: str, body: object = None) -> Any:
    """Return the JSON response of the admin listener; `GatewayError` says in one line why there is none."""
    headers = _headers()
    try:
        connection, base = _connection(where)
        with _deadline(), closing(connection):
            connection.request(method, base + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read(_MOST_BYTES)
    except (ConnectionRefusedError, FileNotFoundError):
        raise GatewayError(f"nothing listens at {where}; is the gateway running, with this admin listener?") from None
    except TimeoutError:
        raise GatewayError(f"no response from {where} within {DEADLINE_SECONDS:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise GatewayError(f"cannot talk to {where}: {printable(str(error) or type(error).__name__)}") from None
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
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": f"redash-gateway/{__version__}"}
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        if not re.fullmatch(r"[\x21-\x7e]+", token):  # http.client's own error would quote it
            raise GatewayError(f"the token in {TOKEN_VARIABLE} contains characters that no token has")
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
    has_token = bool(os.environ.get(TOKEN_VARIABLE, "").strip())
    source = f"the token is taken from {TOKEN_VARIABLE}" if has_token else f"{TOKEN_VARIABLE} is not set"
    hint = f" ({source})" if status in (401, 403) else ""
    raise GatewayError(f"{where} answered {status}: {printable(str(reason or 'no reason given'))}{hint}")
