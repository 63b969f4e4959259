"""What clients with a budget spend on all gateways together; `executions/budgets.py` says how it is used.

    s:<client>:<window>   hash: spent seconds by the number of a slot, of which a window has 120
    so:<client>           hash: for each run in progress its reserved seconds, and since when (Redis' time, in seconds)
    sr:<run>              the client that pays for it

All expire: slots after their window, runs after 13 hours, as their records in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.concurrency.shared_spending import Ended, Spent, Wanted
from gateway.store.redis.failures import RefusedError, UnavailableError
from gateway.store.redis.link import Link
from gateway.store.redis.scripts import Argument, Script

SLOTS: Final = 120

EXCHANGE: Final = Script(
    f"local SLOTS, RUN_SECONDS = {SLOTS}, {13 * 3600}"
    + """
local client, run, want, budgets = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time, open = now() / 1000000, P..'so:'..client
local windows = {}
for i = 1, budgets do
  local most, length = tonumber(ARGV[3 + 2 * i]), ARGV[4 + 2 * i]
  windows[i] = {most = most, length = tonumber(length), key = P..'s:'..client..':'..length}
end
for i = 5 + 2 * budgets, #ARGV, 3 do
  local ended, seconds, surely = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local known = redis.call('HDEL', open, ended) == 1
  redis.call('DEL', P..'sr:'..ended)
  if seconds > 0 and (known or surely == '1') then
    for _, window in ipairs(windows) do
      local slot = int(math.floor(time / (window.length / SLOTS)))
      local spent = tonumber(redis.call('HGET', window.key, slot) or 0)
      redis.call('HSET', window.key, slot, string.format('%.6f', spent + seconds))
      redis.call('PEXPIRE', window.key, int(window.length * 1020 + 1000))
    end
  end
end
local reserved, is_open, runs = 0, false, redis.call('HGETALL', open)
for i = 1, #runs, 2 do
  local seconds, since = string.match(runs[i + 1], '^(%S+) (%S+)$')
  if time - since > RUN_SECONDS then redis.call('HDEL', open, runs[i]) else reserved = reserved + seconds end
  is_open = is_open or runs[i] == run
end
local granted, spent = is_open or run ~= '', {}
for i, window in ipairs(windows) do
  local slots, sum = redis.call('HGETALL', window.key), 0
  for j = 1, #slots, 2 do
    if (slots[j] + 1) * window.length / SLOTS + window.length <= time then
      redis.call('HDEL', window.key, slots[j])
      slots[j + 1] = '0'
    end
    sum = sum + slots[j + 1]
  end
  spent[i] = slots
  local taken = sum + reserved
  local fits = taken < window.most - 0.000001 and taken + want <= window.most + 0.000001
  granted = granted and (is_open or fits)
end
if granted and not is_open then
  local held = string.format('%.6f %.6f', want, time)
  redis.call('HSET', open, run, held)
  redis.call('PEXPIRE', open, RUN_SECONDS * 1000)
  redis.call('SET', P..'sr:'..run, client, 'PX', RUN_SECONDS * 1000)
  table.insert(runs, run)
  table.insert(runs, held)
end
return {granted and 1 or 0, runs, unpack(spent)}
""",
    makes_room=True,
)


class RedisSpending:
    """Where budgets are counted together: a `SpendingSource`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def sharers(self) -> int:
        """How many gateways there are, as last known."""
        return self._link.gateways

    def now(self) -> float:
        """Return Redis' time."""
        return self._link.time.now()

    async def exchange(
        self,
        client: str,
        budgets: Sequence[tuple[float, float]],
        ended: Sequence[Ended] = (),
        wanted: Wanted | None = None,
    ) -> Spent | None:
        """Settle and reserve; None if Redis cannot be reached."""
        run, seconds = wanted or ("", 0.0)
        limits: list[Argument] = [number for budget in budgets for number in budget]
        settled: list[Argument] = [part for one in ended for part in (one.run, one.seconds, int(one.surely))]
        try:
            reply = await self._link.call(EXCHANGE, client, run, seconds, len(budgets), *limits, *settled)
        except (UnavailableError, RefusedError):
            return None
        return _spent(reply, [window for _, window in budgets])

    async def owner(self, run: str) -> str | None:
        """Return the client that pays for a run, None if nobody does, or Redis cannot be reached."""
        try:
            found = await self._link.command("GET", f"{self._link.base}sr:{run}")
        except (UnavailableError, RefusedError):
            return None
        return None if found is None else found.decode()


def _spent(reply: Any, lengths: list[float]) -> Spent:
    granted, runs, *spent = reply
    windows = {
        length: [((int(slot) + 0.5) * length / SLOTS, float(seconds)) for slot, seconds in pairs(slots)]
        for length, slots in zip(lengths, spent, strict=True)
    }
    held = {run.decode(): tuple(map(float, text.split())) for run, text in pairs(runs)}
    return Spent(bool(granted), windows, {run: (seconds, since) for run, (seconds, since) in held.items()})


def pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the fields of a hash with their values, as Redis lists them in turn."""
    return list(zip(flat[::2], flat[1::2], strict=True))
