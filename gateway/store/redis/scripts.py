"""Scripts that Redis runs: each is atomic, and all begin with the same few functions."""

from __future__ import annotations

import hashlib
from typing import Final

Argument = bytes | str | int | float

FORMAT: Final = 3
"""Version of everything in Redis, part of every key: old and new gateways never read each other's values."""

_PRELUDE: Final = """
local P = KEYS[1]
local ORIGIN = table.remove(ARGV)
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function int(x) return string.format('%.0f', x) end
local function epoch()
  local e = redis.call('GET', P..'epoch')
  if not e then
    e = ORIGIN..'-'..int(now())
    redis.call('SET', P..'epoch', e)
  end
  return e
end
local function announce(kind, payload)
  local e = epoch()
  local n = redis.call('INCR', P..'seq')
  redis.call('PUBLISH', P..'news', e..' '..int(n)..' '..ORIGIN..' '..kind..' '..payload)
  return n
end
"""


class Script:
    """A script in Lua, with what all scripts have.

    `P` is what every key begins with. `ARGV` are the arguments of `Link.call`. `now()` is Redis' time in microseconds,
    `int(x)` writes a large number. `announce(kind, payload)` tells all gateways and returns the announcement's number.
    It must be short: while it runs, Redis does nothing else.
    """

    def __init__(self, text: str, *, makes_room: bool = False) -> None:
        """`makes_room`: it may also run while Redis has no memory left (maxmemory)."""
        flags = "#!lua flags=allow-oom\n" if makes_room else ""
        self.text = (flags + _PRELUDE + text).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
