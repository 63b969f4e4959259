"""The token buckets of clients with a rate that all gateways share. How they are used is in
`concurrency/leased_bucket.py`."""

from __future__ import annotations

from typing import Final

from gateway.concurrency.leased_bucket import Granted
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.scripts import Script

# A bucket that has been filled again is forgotten. Redis takes no time to live beyond what 64 bits hold.
EXCHANGE: Final = Script(
    """
local key, rate, burst = P..'r:'..ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local want, back, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time, level = now(), burst
local held = redis.call('HMGET', key, 'level', 'at')
if held[1] then level = math.min(burst, held[1] + math.max(0, time - held[2]) / 1000000 * rate) end
level = math.min(burst, math.min(level, most) + back)
local tokens = math.min(want, math.floor(level))
level = string.format('%.6f', level - tokens)
redis.call('HSET', key, 'level', level, 'at', int(time))
redis.call('PEXPIRE', key, int(math.min(1e12, math.ceil((burst - level) / rate * 1000) + 1000)))
return {tokens, level}
""",
    makes_room=True,
)


class RedisTokens:
    """Where the shared buckets are: a `TokenSource`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def up(self) -> bool:
        """Whether Redis can be reached."""
        return self._link.up

    @property
    def sharers(self) -> int:
        """How many gateways there are, as last known."""
        return self._link.gateways

    async def exchange(
        self, name: str, rate: float, burst: float, *, want: int, back: int, at_most: float | None
    ) -> Granted | None:
        """Give and take tokens; None if Redis cannot be reached."""
        most = burst if at_most is None else at_most
        try:
            tokens, level = await self._link.call(EXCHANGE, name, rate, burst, want, back, most)
        except (UnavailableError, RefusedError):
            return None
        return Granted(tokens, float(level))
