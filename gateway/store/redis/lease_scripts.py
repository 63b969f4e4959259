"""The scripts of the leases; `leases` says what they keep, and the rules.

`l:KEY` is a lease: a hash of the run's id, its owner (a process), its number, the marker of its definition, and whether
it is closing. `la:ID` are the asks of a run: a number to count from, then the age of each, and when it was noted.
`lu:ID` says when each follower last had use for the run. `lj:JOB` are the runs that follow a job in Redash.
"""

from __future__ import annotations

from typing import Final

from gateway.store.redis.scripts import Script

LIFE_MILLISECONDS: Final = 6_000
USED_SECONDS: Final = 60
MOST_ASKS: Final = 100_000
_KEPT_MILLISECONDS: Final = 3_600_000

_COMMON: Final = f"""
local LIFE, KEPT = {LIFE_MILLISECONDS}, {_KEPT_MILLISECONDS}
local function following_number()
  local n = math.max(tonumber(redis.call('GET', P..'fence') or '0') + 1, now())
  redis.call('SET', P..'fence', int(n))
  return int(n)
end
local function unread(id, base, read)
  local list = P..'la:'..id
  local first = redis.call('LINDEX', list, 0)
  if not first then return '0', {{}} end
  if first ~= base then read = 0 end
  redis.call('PEXPIRE', list, KEPT)
  return first, redis.call('LRANGE', list, read + 1, -1)
end
local function note_ask(id, age)
  local list = P..'la:'..id
  if redis.call('LLEN', list) >= {MOST_ASKS} then return 0 end
  if redis.call('EXISTS', list) == 0 then redis.call('RPUSH', list, following_number()) end
  local ask = int(tonumber(redis.call('LINDEX', list, 0)) + redis.call('RPUSH', list, age..' '..int(now())) - 1)
  redis.call('PEXPIRE', list, KEPT)
  announce('run', 'asked '..id..' '..ask..' '..age)
  return ask
end
local function note_use(id, owner, unused)
  redis.call('HSET', P..'lu:'..id, owner, int(now() - unused * 1000000))
  redis.call('PEXPIRE', P..'lu:'..id, KEPT)
end
"""

CLAIM: Final = Script(
    _COMMON
    + f"""
local key, id, owner, marker, age, unused = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local by_force, base, read, upstream = ARGV[7] == '1', ARGV[8], tonumber(ARGV[9]), ARGV[10]
local number, over = tonumber(ARGV[11]), ARGV[12]
local l = P..'l:'..key
local lease = redis.call('HMGET', l, 'id', 'owner', 'n', 'marker', 'closing')
if upstream ~= '' then -- whoever gets the lease: without it, a run goes on by itself
  redis.call('SADD', P..'lj:'..upstream, id)
  redis.call('PEXPIRE', P..'lj:'..upstream, KEPT)
end
if not lease[1] and redis.call('EXISTS', P..'x:'..id) == 1 then
  local is_over = not redis.call('ZSCORE', P..'xu', id)
  local others_had_it = number > 0 and tonumber(redis.call('HGET', P..'xf', id) or 0) > number
  if is_over or others_had_it then return {{'held', id, 0, 0}} end
end
local ours = lease[1] == id and lease[2] == owner
if ours or not lease[1] or by_force or lease[1] == over then
  local n = lease[3]
  if not ours then
    n = following_number()
    redis.call('DEL', l)
    redis.call('HSET', l, 'id', id, 'owner', owner, 'n', n, 'marker', marker)
    redis.call('HDEL', P..'lu:'..id, owner)
  end
  redis.call('PEXPIRE', l, LIFE)
  local first, asks = unread(id, base, read)
  return {{'led', n, first, asks, now()}}
end
local joinable = not lease[5] and (lease[4] == marker or lease[1] == id)
local ask = 0
if joinable then
  if unused < {USED_SECONDS} then note_use(lease[1], owner, unused) end
  if age ~= '' then ask = note_ask(lease[1], age) end
end
return {{'held', lease[1], joinable and 1 or 0, ask}}
""",
    makes_room=True,
)
"""Takes a lease, keeps it, or notes an ask there:
KEY ID OWNER MARKER AGE UNUSED FORCE BASE READ UPSTREAM NUMBER OVER.

`NUMBER` is that of the lease to keep, 0 for a new one. The ledger knows whether the run has ended (`xu`), and the
number of the lease under which its record was written (`xf`). `OVER` is a run known to be over, whose lease is free."""

ASK: Final = Script(
    _COMMON
    + """
note_use(ARGV[1], ARGV[3], 0)
return note_ask(ARGV[1], ARGV[2])
""",
    makes_room=True,
)
"""Notes an ask of a run, whoever leads it, and returns its number: ID AGE OWNER."""

CLOSE: Final = Script(
    _COMMON
    + f"""
local key, id, n, base, read = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local unless_used, upstream = ARGV[6] == '1', ARGV[7]
local l = P..'l:'..key
if redis.call('HGET', l, 'n') ~= n then return {{'lost'}} end
local first, asks = unread(id, base, read)
if unless_used then
  local used = false
  for _, at in ipairs(redis.call('HVALS', P..'lu:'..id)) do
    used = used or now() - tonumber(at) < {USED_SECONDS} * 1000000
  end
  for _, other in ipairs(redis.call('SMEMBERS', P..'lj:'..upstream)) do
    used = used or (other ~= id and redis.call('ZSCORE', P..'xu', other))
  end
  if used then return {{'used', n, first, asks, now()}} end
end
redis.call('HSET', l, 'closing', 1)
redis.call('PEXPIRE', l, LIFE)
return {{'closed', n, first, asks, now()}}
""",
    makes_room=True,
)
"""Lets a run take no more asks, and returns those that are left: KEY ID NUMBER BASE READ UNLESS_USED UPSTREAM.

Whether it is used shows in `lu`, not in the asks: who has asked may have left since.
The ledger knows which of the runs with the same job in Redash have not ended (`xu`)."""

REOPEN: Final = Script(
    """
local l = P..'l:'..ARGV[1]
if redis.call('HGET', l, 'n') == ARGV[2] then redis.call('HDEL', l, 'closing') end
""",
    makes_room=True,
)
"""Lets it take asks again: KEY NUMBER."""

END: Final = Script(
    _COMMON
    + """
local key, id, owner, what, follow_up, marker = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local l = P..'l:'..key
local lease = redis.call('HMGET', l, 'id', 'owner')
if lease[1] == id and lease[2] == owner then
  if follow_up ~= '' then
    redis.call('HSET', l, 'id', follow_up, 'n', following_number(), 'marker', marker)
    redis.call('HDEL', l, 'closing')
    redis.call('PEXPIRE', l, LIFE)
  else
    redis.call('DEL', l)
  end
  if what == 'ended' then redis.call('DEL', P..'la:'..id, P..'lu:'..id) end
end
announce('run', what..' '..id)
""",
    makes_room=True,
)
"""Gives a lease up, or hands it to a follow-up: KEY ID OWNER WHAT FOLLOW_UP MARKER.

Its number may have changed just now. Followers must hear of an end also if the lease is gone."""

TELL: Final = Script(
    """
if ARGV[1] ~= '' then redis.call('HDEL', P..'lu:'..ARGV[2], ARGV[1]) end
announce('run', ARGV[3])
""",
    makes_room=True,
)
"""Announces what has happened to a run, after leaving it: OWNER ID NEWS."""

IS_FREE: Final = Script("return redis.call('EXISTS', P..'l:'..ARGV[1])", makes_room=True)
"""Returns whether a lease exists: KEY."""
