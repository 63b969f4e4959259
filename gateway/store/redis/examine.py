"""`check --online`: whether a Redis is one that gateways can share, and what must be changed there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from gateway.errors import StoreError
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.scripts import FORMAT, Script
from gateway.store.redis.server import RedisOptions, Server, parse_info
from gateway.store.redis.session import Session

SECONDS: Final = 5.0
SLOW_SECONDS: Final = 0.01

COMMANDS: Final = ("DEL", "EVALSHA", "EXPIRE", "GET", "HSET", "INCR", "PUBLISH", "SET", "SUBSCRIBE", "TIME", "ZADD")
"""What a gateway sends, and what its scripts call."""

_RIGHTS: Final = Script(
    """
local missing = {}
for _, command in ipairs(ARGV) do
  local place = (command == 'PUBLISH' or command == 'SUBSCRIBE') and P..'news' or P..'check'
  if not redis.acl_check_cmd(command, place, 1, 1, 1) then table.insert(missing, command) end
end
if #missing == 0 then redis.call('PUBLISH', P..'check', ORIGIN) end
return missing
"""
)


class Examined(NamedTuple):
    """What was found, one line each."""

    notes: list[str]
    mistakes: list[str]


async def examine(options: RedisOptions, disk_bytes: int) -> Examined:
    """Connect as a gateway does, and try what it needs. `disk_bytes`: what the gateways may store there."""
    try:
        async with asyncio.timeout(SECONDS), _session(options) as (session, heard):
            sent = time.monotonic()
            info = parse_info(await session.ask(("INFO",)))
            passed = time.monotonic() - sent
            base = f"{options.prefix}:{FORMAT}:"
            missing = await session.ask(("EVAL", _RIGHTS.text, 1, base, *COMMANDS, "check"))
            if not missing:
                await heard.wait()
    except StoreError as error:
        return Examined([], [str(error)])
    except RefusedError as error:
        return Examined([], [f"{options.address} refuses what a gateway needs: {error}{_remedy(options)}"])
    except (UnavailableError, TimeoutError) as error:
        return Examined([], [f"{options.address} cannot be used: {error or f'no answer within {SECONDS:g} s'}"])
    mistakes = [] if not missing else [_without(missing, options)]
    return Examined(_notes(info, options, passed), [*mistakes, *_limits(info, disk_bytes)])


@asynccontextmanager
async def _session(options: RedisOptions) -> AsyncIterator[tuple[Session, asyncio.Event]]:
    connections, _ = await Server(options).connect(3)
    heard = asyncio.Event()
    channel = f"{options.prefix}:{FORMAT}:check"
    session = Session(connections, channel, lambda _message: heard.set(), lambda _session, _reason: None)
    try:
        await session.subscribe()
        yield session, heard
    finally:
        await session.aclose()


def _without(missing: list[bytes], options: RedisOptions) -> str:
    commands = ", ".join(command.decode() for command in missing)
    return f"its user may not use {commands} on {options.prefix}:*{_remedy(options)}"


def _remedy(options: RedisOptions) -> str:
    name, prefix = options.address.username or "default", options.prefix
    return f"; as an administrator: ACL SETUSER {name} ~{prefix}:* &{prefix}:* +@all -@dangerous +info"


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
