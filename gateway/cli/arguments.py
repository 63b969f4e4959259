"""Parsers for single arguments. Each says in a few words what is wrong with a value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


def _checked(kind: Callable[[str], object], pattern: str, wanted: str) -> Callable[[str], Any]:
    def read(text: str) -> object:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(wanted)
        return kind(text)

    return read


port = _checked(int, "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]", "not a port")
id_number = _checked(int, "[1-9][0-9]{0,15}", "an id is a whole number of at least 1")
dashboard = _checked(lambda text: int(text) if text.isdecimal() else text, r"[\w-]{1,200}", "is no id and no slug")
client = _checked(str, r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "is not the name of a client")
max_age = _checked(int, "-1|[0-9]{1,12}", "not a number of seconds, or -1 for any age")
parameter = _checked(lambda text: text.partition("=")[::2], r"(?s)[^=]+=.*", "write NAME=VALUE")
scope = tag = _checked(str, r".*\S.*", "is empty")
seconds = _checked(float, r"[0-9]{1,5}(\.[0-9]{1,3})?", "not a number of seconds")
address = _checked(str, r"https?://[^/@\s]+(/\S*)?|unix:/.+", 'write "http://127.0.0.1:8081" or "unix:/run/name.sock"')
variable = _checked(str, r"[A-Za-z_][A-Za-z0-9_]{0,63}", "is not the name of an environment variable")
table_name = _checked(str, r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", "use up to 40 letters, digits, '-' and '_'")


def listen(text: str) -> str:
    """Check the address of a listener, as `server.listen` has it."""
    from gateway.config.values import listen as parse  # noqa: PLC0415 - not needed by most commands

    return _same_text(text, parse)


def redash_url(text: str) -> str:
    """Check the URL of Redash, as `upstream.url` has it."""
    from gateway.config.values import base_url as parse  # noqa: PLC0415

    return _same_text(text, parse)


def _same_text(text: str, parse: Callable[[object], object]) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
