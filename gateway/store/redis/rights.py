"""Whether the user of Redis has all rights that a gateway needs there, and how an administrator gives them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from gateway.store.redis.failures import LACKS
from gateway.store.redis.scripts import FORMAT, Script
from gateway.store.redis.server import RedisOptions

COMMANDS: Final = (
    *(
        "DECR K",
        "DECRBY K 1",
        "DEL K",
        "EXISTS K",
        "GET K",
        "INCR K",
        "INCRBY K 1",
        "PERSIST K",
        "PEXPIRE K 1",
        "SET K 1",
    ),
    *("STRLEN K", "UNLINK K", "HDEL K 1", "HGET K 1", "HGETALL K", "HLEN K", "HMGET K 1", "HSET K 1 1", "HVALS K"),
    *("LINDEX K 0", "LLEN K", "LRANGE K 0 1", "RPUSH K 1", "SADD K 1", "SMEMBERS K", "SREM K 1", "SSCAN K 0"),
    *(
        "ZADD K 1 1",
        "ZCARD K",
        "ZCOUNT K 0 1",
        "ZPOPMIN K",
        "ZRANGE K 0 1",
        "ZREM K 1",
        "ZREMRANGEBYSCORE K 0 1",
        "ZREVRANGE K 0 1",
    ),
    *("ZSCAN K 0", "ZSCORE K 1", "EVAL 1 1 K", "EVALSHA 1 1 K", "PUBLISH C 1", "SUBSCRIBE C", "TIME"),
)
"""What a gateway sends, and what its scripts call; K stands for a key, C for a channel."""

FITTING: Final = "(one that begins with redash-gateway: fits the ACL of docs/several-machines.md)"
"""Which prefix needs no other rights than the documented ones."""

RIGHTS: Final = Script(
    """
local missing = {}
if not redis.acl_check_cmd then return missing end
for _, command in ipairs(ARGV) do
  local words = {}
  for word in command:gmatch('%S+') do
    table.insert(words, word == 'K' and P..'check' or word == 'C' and P..'news' or word)
  end
  if not redis.acl_check_cmd(unpack(words)) then table.insert(missing, words[1]) end
end
return missing
"""
)
"""Returns the commands that this user may not use, each as its first word."""

_SET_USER: Final = "ACL SETUSER"


def without(missing: Sequence[bytes], options: RedisOptions) -> str:
    """Say what a user may not do, and how to change it."""
    commands = ", ".join(command.decode() for command in missing)
    return f"its user may not use {commands} on {options.prefix}:*{remedy(options)}"


def foreign(options: RedisOptions) -> str:
    """Say what to do where keys hold what scripts cannot work with."""
    name = f"{options.prefix}:{FORMAT}"
    return f"keys {name}:* hold what no gateway has written: delete them all, or choose another redis.prefix {FITTING}"


def explained(text: str, options: RedisOptions) -> str:
    """Add how to give the rights to what Redis says of a missing one."""
    is_denial = LACKS in text or "no permissions" in text
    return f"{text}{remedy(options)}" if is_denial and _SET_USER not in text else text


def remedy(options: RedisOptions) -> str:
    """Return the end of a sentence: the command that gives the rights.

    Its rules are quoted so that they mean the same to the prompt of redis-cli and to a shell.
    """
    name, prefix = options.address.username or "default", options.prefix
    rules = (f"~{prefix}:*", f"&{prefix}:*", "+@all", "-@dangerous", "+info")
    return f"; as an administrator: {_SET_USER} {shlex.quote(name)} " + " ".join(f"'{rule}'" for rule in rules)
