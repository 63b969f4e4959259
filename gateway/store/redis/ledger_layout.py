"""The scripts of the ledger, and where its records stand in Redis. None is evicted for results.

    x:<id>            an execution;  xi: ids by time, xu: those that have not ended, xb: bytes, xf: numbers of leases
    j:<id>            a job: v record, x id of its execution;  ji: ids by time, jb: bytes
    xj:<execution>    ids of its jobs
    i:<scope>:<id>    the queries that a result id was seen for;  ii: those by time
    is:<scope>        there, if any result id was seen in that scope
    scopes            hash: a scope for each key, user and server; the only one that does not expire

Everything else expires an hour after its 12 hours, in case that no gateway is there to delete it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gateway.model import digest
from gateway.store.redis.scripts import Script

ROW_BYTES: Final = 400
"""Measured with MEMORY USAGE: what a record takes beside its bytes, with its places in the indexes."""

RESULT_BYTES: Final = 512
STEP: Final = 100
_KEPT_MILLISECONDS: Final = 13 * 3_600_000

_COMMON: Final = f"""
local ROW, KEPT, STEP = {ROW_BYTES}, {_KEPT_MILLISECONDS}, {STEP}
"""


@lru_cache(maxsize=256)
def scope_digest(scope: str) -> str:
    """Return a scope as it stands in keys."""
    return digest(scope.encode())[:16].hex()


def _script(text: str) -> Script:
    return Script(_COMMON + text, makes_room=True)


RECORD_EXECUTION: Final = _script(
    """
local id, packed, at, status, fence, missing = unpack(ARGV)
local old = redis.call('STRLEN', P..'x:'..id)
if old > 0 and (missing == '1' or tonumber(fence) < tonumber(redis.call('HGET', P..'xf', id) or 0)) then return 0 end
if old > 0 and not redis.call('ZSCORE', P..'xu', id) then return 0 end
redis.call('SET', P..'x:'..id, packed, 'PX', KEPT)
redis.call('INCRBY', P..'xb', #packed - old + (old == 0 and ROW or 0))
redis.call('ZADD', P..'xi', at, id)
if fence ~= '0' then redis.call('HSET', P..'xf', id, fence) end
if tonumber(status) < 3 then redis.call('ZADD', P..'xu', at, id) else redis.call('ZREM', P..'xu', id) end
return 1
"""
)
"""A record is not replaced by one that was written under an older lease, nor its end by anything; returns 0 then.
`missing`: only if there is none."""

RECORD_SCOPE: Final = _script(
    """
local name, scope, most = unpack(ARGV)
local found = redis.call('HGET', P..'scopes', name)
if found or redis.call('HLEN', P..'scopes') >= tonumber(most) then return found end
redis.call('HSET', P..'scopes', name, scope)
return scope
"""
)

RECORD_JOB: Final = _script(
    """
local id, packed, at, execution, missing = unpack(ARGV)
local old = redis.call('HMGET', P..'j:'..id, 'v', 'x')
if old[1] and missing == '1' then return 0 end
if old[1] and old[2] ~= execution then redis.call('SREM', P..'xj:'..old[2], id) end
redis.call('HSET', P..'j:'..id, 'v', packed, 'x', execution)
redis.call('PEXPIRE', P..'j:'..id, KEPT)
redis.call('INCRBY', P..'jb', #packed - (old[1] and #old[1] or -ROW))
redis.call('ZADD', P..'ji', at, id)
redis.call('SADD', P..'xj:'..execution, id)
redis.call('PEXPIRE', P..'xj:'..execution, KEPT)
return 1
"""
)
RECORD_RESULTS: Final = _script(
    """
local time, kept = int(now()), 30 * 24 * 3600000
for i = 2, #ARGV, 3 do
  local name, query, identity = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call(identity == '' and 'HSETNX' or 'HSET', P..'i:'..name, query, identity)
  redis.call('PEXPIRE', P..'i:'..name, kept)
  redis.call('SET', P..'is:'..string.match(name, '^[^:]*'), 1, 'PX', kept)
  redis.call('ZADD', P..'ii', time, name)
end
local over = redis.call('ZCARD', P..'ii') - tonumber(ARGV[1])
if over > 0 then
  local oldest = redis.call('ZPOPMIN', P..'ii', math.min(over, STEP))
  for i = 1, #oldest, 2 do redis.call('UNLINK', P..'i:'..oldest[i]) end
end
"""
)
UNFINISHED: Final = _script(
    """
local found = redis.call('ZSCAN', P..'xu', ARGV[1], 'COUNT', STEP)
local records = {}
for i = 1, #found[2], 2 do
  local record = redis.call('GET', P..'x:'..found[2][i])
  if record then table.insert(records, record) else redis.call('ZREM', P..'xu', found[2][i]) end
end
return {found[1], records}
"""
)
JOBS_OF: Final = _script(
    """
local found = redis.call('SSCAN', P..'xj:'..ARGV[1], ARGV[2], 'COUNT', STEP)
local records = {}
for _, id in ipairs(found[2]) do
  local record = redis.call('HGET', P..'j:'..id, 'v')
  if record then table.insert(records, record) else redis.call('SREM', P..'xj:'..ARGV[1], id) end
end
return {found[1], records}
"""
)
SWEEP: Final = _script(
    """
local oldest, limit, count = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local function surplus(index, bytes, at)
  return tonumber(at) < oldest and 'old' or tonumber(redis.call('GET', P..bytes) or 0) > limit and 'much'
end
local found = redis.call('ZRANGE', P..'xi', 0, STEP - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local id, why = found[i], surplus('xi', 'xb', found[i + 1])
  if not why then break end
  if why == 'old' or not redis.call('ZSCORE', P..'xu', id) then
    redis.call('DECRBY', P..'xb', redis.call('STRLEN', P..'x:'..id) + ROW)
    redis.call('UNLINK', P..'x:'..id)
    redis.call('HDEL', P..'xf', id)
    redis.call('ZREM', P..'xi', id)
    redis.call('ZREM', P..'xu', id)
    count = count + 1
  end
end
found = redis.call('ZRANGE', P..'ji', 0, STEP - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local id = found[i]
  if not surplus('ji', 'jb', found[i + 1]) then break end
  local job = redis.call('HMGET', P..'j:'..id, 'v', 'x')
  redis.call('DECRBY', P..'jb', (job[1] and #job[1] or 0) + ROW)
  if job[2] then redis.call('SREM', P..'xj:'..job[2], id) end
  redis.call('UNLINK', P..'j:'..id)
  redis.call('ZREM', P..'ji', id)
  count = count + 1
end
return count
"""
)
"""Deletes what is older than OLDEST, and the oldest of what is over LIMIT; unfinished executions only for age."""
