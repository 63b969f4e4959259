"""`check --online`: whether a Redis is one that gateways can share, and what must be changed there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from gateway.errors import StoreError
from gateway.store.redis.causes import ADVICE
from gateway.store.redis.failures import DeniedError, RefusedError, UnavailableError, UnreachableError
from gateway.store.redis.rights import COMMANDS, RIGHTS, explained, without
from gateway.store.redis.scripts import FORMAT
from gateway.store.redis.server import RedisOptions, Server, parse_info
from gateway.store.redis.session import Session

SECONDS: Final = 5.0
SLOW_SECONDS: Final = 0.01

ITS_OWN_BYTES: Final = 10**6
"""What Redis takes for connections and scripts, beside what it took when it started."""


async def examine(options: RedisOptions, disk_bytes: int) -> tuple[list[str], list[str]]:
    """Connect as a gateway does, and try what it needs; return what is to be said of it, and what must be changed.

    `disk_bytes`: what the gateways may store there.
    """
    try:
        async with asyncio.timeout(SECONDS), _session(options) as (session, heard):
            sent = time.monotonic()
            info = parse_info(await session.ask(("INFO",)))
            passed = time.monotonic() - sent
            missing = await session.ask(("EVAL", RIGHTS.text, 1, f"{options.prefix}:{FORMAT}:", *COMMANDS, "check"))
            if not missing:
                await session.subscribe()
                await session.ask(("PUBLISH", _channel(options), "check"))
                await heard.wait()
            saves = await _saves(session, info)
    except (StoreError, RefusedError, DeniedError) as error:
        told = str(error) if isinstance(error, StoreError) else f"{options.address} refuses: {error}"
        return [], [explained(told, options)]
    except (UnreachableError, TimeoutError) as error:
        return [], [f"{options.address} cannot be used: {str(error) or f'no answer within {SECONDS:g} s'}; {ADVICE}"]
    except UnavailableError as error:
        return [], [f"{options.address} cannot be used: {error}"]
    rights = [without(missing, options)] if missing else []
    return [*_notes(info, options, passed), *saves], [*rights, *_limits(info, disk_bytes)]


@asynccontextmanager
async def _session(options: RedisOptions) -> AsyncIterator[tuple[Session, asyncio.Event]]:
    connections, _ = await Server(options).connect(3)
    heard = asyncio.Event()
    session = Session(connections, _channel(options), lambda _: heard.set(), lambda _, __: None)
    try:
        yield session, heard
    finally:
        await session.aclose()


def _channel(options: RedisOptions) -> str:
    return f"{options.prefix}:{FORMAT}:check"


async def _saves(session: Session, info: Mapping[str, str]) -> list[str]:
    """Ask last whether it writes a file: a user with the rights of the docs may not ask, and loses the connection."""
    writes = info.get("aof_enabled") == "1"
    with suppress(UnavailableError, RefusedError):
        _, found = await session.ask(("CONFIG", "GET", "save"))
        writes = writes or bool(found)
    text = 'it writes a file on its disk, which gateways do not need, and is slow meanwhile; CONFIG SET save ""'
    return [f"{text}, CONFIG SET appendonly no"] if writes else []


def _notes(info: Mapping[str, str], options: RedisOptions, passed: float) -> list[str]:
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    notes = [f"{options.address} is {kind} {version}; a round trip takes {passed * 1000:.1f} ms"]
    if passed > SLOW_SECONDS:
        notes.append("that is long: each request that memory cannot answer waits for one or two of them")
    if not int(info.get("maxmemory", 0)):
        notes.append("it has no maxmemory; see that its machine has room for cache.disk and a quarter more")
    return notes


def _limits(info: Mapping[str, str], disk_bytes: int) -> list[str]:
    policy, limit = info.get("maxmemory_policy", ""), int(info.get("maxmemory", 0))
    mistakes = []
    if policy != "noeviction":
        text = f"its maxmemory-policy is {policy}: it would remove jobs and leases, and not know which results matter"
        mistakes.append(f"{text}; CONFIG SET maxmemory-policy noeviction")
    room = limit - int(info.get("used_memory_startup", 0)) - ITS_OWN_BYTES
    if limit and room * 4 < disk_bytes * 5:
        text = f"its maxmemory is {limit / 1e6:.0f} MB, too little for cache.disk = {disk_bytes / 1e6:.0f} MB"
        fits = room * 4 // 5 // 10**6
        lower = f", or set cache.disk to {fits}MB" if fits > 0 else ""
        mistakes.append(f"{text}, a quarter more, and {(limit - room) / 1e6:.0f} MB for Redis itself; raise it{lower}")
    return mistakes
