"""The schemes of `cache.store` and how each is written. Pure; `gateway/store/factory.py` has an opener for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.config import redis_url, values

_SQLITE = re.compile(r"sqlite:(?!//[^/])(?!/*:memory:).+")  # sqlite://host/ means nothing, :memory: is another store
_CLUSTER = re.compile(r"rediss?[+-]cluster", re.IGNORECASE)


class Scheme(msgspec.Struct, frozen=True):
    """How a kind of store is written: for error messages, as a check, and whether a path follows the colon.

    `accepts` gets the whole text. It may raise ValueError to say what is wrong with it.
    """

    usage: str
    accepts: Callable[[str], bool]
    is_path: bool = False


def _is_redis(given: str) -> bool:
    redis_url.redis_address(given)
    return True


SCHEMES: Final[Mapping[str, Scheme]] = {
    "memory": Scheme("memory:", lambda given: given == "memory:"),
    "sqlite": Scheme("sqlite:PATH", lambda given: _SQLITE.fullmatch(given) is not None, is_path=True),
    "redis": Scheme(redis_url.SERVER, _is_redis),
    "rediss": Scheme(redis_url.SERVER.replace("redis", "rediss"), _is_redis),
    "redis+sentinel": Scheme(redis_url.SENTINELS, _is_redis),
    "rediss+sentinel": Scheme(redis_url.SENTINELS.replace("redis", "rediss"), _is_redis),
}


def store(value: object) -> str:
    """Parse where results are stored. The text may contain a password, so it never appears in a message."""
    given = values.text(value)
    split_store(given)
    return given


def split_store(given: str) -> tuple[str, str]:
    """Return the scheme, in lower case, and what follows its colon. A ValueError says what to write instead."""
    scheme, _, place = given.partition(":")
    if _CLUSTER.fullmatch(scheme):
        raise ValueError(
            "names a Redis Cluster, which is not supported, because each script needs all its keys on one server; "
            f'write "{redis_url.SERVER}", or "{redis_url.SENTINELS}"'
        )
    known = SCHEMES.get(scheme.lower())
    if known is None or not known.accepts(given):
        *others, last = (f'"{each.usage}"' for each in SCHEMES.values())
        raise ValueError(f"names no store; write {', '.join(others)} or {last}")
    return scheme.lower(), place


def is_redis(given: str) -> bool:
    """Whether a valid store is a Redis."""
    return given.lower().startswith("redis")


def anchored(given: str, directory: Path) -> str:
    """Make a relative path absolute, if the store is a path."""
    scheme, place = split_store(given)
    return f"{scheme}:{directory / place}" if SCHEMES[scheme].is_path else given
