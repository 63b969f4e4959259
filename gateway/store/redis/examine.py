"""`check --online`: whether a Redis is one that gateways can share, and what must be changed there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from gateway.errors import StoreError
from gateway.store.redis.failures import DeniedError, RefusedError, UnavailableError
from gateway.store.redis.rights import COMMANDS, RIGHTS, remedy, without
from gateway.store.redis.scripts import FORMAT
from gateway.store.redis.server import RedisOptions, Server, parse_info
from gateway.store.redis.session import Session

SECONDS: Final = 5.0
SLOW_SECONDS: Final = 0.01


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
    except (StoreError, RefusedError, DeniedError) as error:
        told = str(error) if isinstance(error, StoreError) else f"{options.address} refuses: {error}"
        return [], [f"{told}{remedy(options) if 'no permissions' in told else ''}"]
    except (UnavailableError, TimeoutError) as error:
        return [], [f"{options.address} cannot be used: {str(error) or f'no answer within {SECONDS:g} s'}"]
    rights = [without(missing, options)] if missing else []
    return _notes(info, options, passed), [*rights, *_limits(info, disk_bytes)]


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
    if limit and limit * 4 < disk_bytes * 5:
        text = f"its maxmemory is {limit / 1e6:.0f} MB, too little for cache.disk = {disk_bytes / 1e6:.0f} MB"
        mistakes.append(f"{text} and a quarter more; raise it, or set cache.disk to {limit * 4 // 5 // 10**6}MB")
    return mistakes
