"""Notices gateways that are not meant to share this Redis with this one: of another Redash, or of the same name."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.model import digest
from gateway.store.redis.scripts import Script

log = logging.getLogger(__name__)

MOST: Final = 100
TWIN_LOOKS: Final = 30
"""A minute. For a while two processes of one gateway run at the same time: during a restart."""

WHO: Final = Script(
    f"""
local name, url = ARGV[1], ARGV[2]
local before = redis.call('HGET', P..'who', name)
if redis.call('HLEN', P..'who') > 10 * {MOST} then redis.call('DEL', P..'who') end
redis.call('HSET', P..'who', name, ORIGIN..' '..url)
redis.call('PEXPIRE', P..'who', 3600000)
local found = {{}}
for _, other in ipairs(redis.call('ZREVRANGE', P..'peers', 0, {MOST} - 1)) do
  local theirs = redis.call('HGET', P..'who', other)
  if theirs and theirs:match(' (.*)') ~= url then table.insert(found, other) end
end
return {{before and before:match('^(.*) ') ~= ORIGIN and 1 or 0, found}}
""",
    makes_room=True,
)
"""who: hash of names of gateways, each with its process and the digest of its `upstream.url`. Returns whether another
process has this name, and the names that have another URL."""


class Neighbours:
    """What they are is written and read with some of the heartbeats."""

    def __init__(self, name: str, upstream_url: str) -> None:
        self.trouble = ""
        """What is wrong with them, "" if nothing is."""
        self._name = name
        self._url = digest(upstream_url.encode())[:8].hex()
        self._twin_looks = 0

    async def update(self, call: Callable[..., Awaitable[Any]]) -> None:
        """Ask who is there; what is new is logged once. Raises as `Link.call`."""
        is_twin, others = await call(WHO, self._name, self._url)
        self._twin_looks = self._twin_looks + 1 if is_twin else 0
        trouble = ""
        if others:
            names = b", ".join(sorted(others)).decode(errors="replace")
            trouble = f"{names} in the same Redis: another upstream.url; give each Redash a redis.prefix of its own"
        elif self._twin_looks >= TWIN_LOOKS:
            trouble = f"another gateway is also called {self._name}; give each a redis.name of its own"
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble
