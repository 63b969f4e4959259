"""A small valid configuration that tests change in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, parse
from gateway.errors import ConfigurationError

HASH = "ab" * 32
OTHER_HASH = "cd" * 32
ENVIRON = {"KEY": "k" * 40}
UPSTREAM = '[upstream]\nurl = "https://redash.example.com"\n'
USER = '[credentials.a]\nkind = "user"\nkey_env = "KEY"\n'
QUERY = '[credentials.q]\nkind = "query"\nquery = 42\nkey_env = "KEY"\n'
CLIENT = f'[clients.c]\ntoken_sha256 = ["{HASH}"]\ncredentials = ["a"]\n'
BASE = UPSTREAM + USER + QUERY + CLIENT


def good(text: str, directory: Path = Path("/etc/gateway"), environ: dict[str, str] | None = None) -> Config:
    return parse(text, directory, ENVIRON if environ is None else environ)


def mistakes(text: str, directory: Path = Path("/etc/gateway"), environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, directory, ENVIRON if environ is None else environ)
    return [line.removeprefix("config.toml: ") for line in caught.value.mistakes]
