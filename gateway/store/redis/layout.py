"""The scripts of entries and bodies, and where these stand in Redis.

e:<key>           hash: v entry, k the key itself, c confirmed, n number of the announcement, b body id, g group
b:<body id>       hash: d digest, s bytes, w bytes as stored, t token, k count of pieces, x the body if it has none
c:<token>:<i>     a piece of a large body; it expires unless its body is complete
u:<body id>       set: keys of the entries that have this body
q:<group>         set: keys of the entries of a scope and query; `groups` has all groups
lru               sorted set: body ids by the time of their last use
bytes, entries    counters
purged            hash: the number of the last purge of `*`, `s<scope>`, `q<query>` and each group
"""

from __future__ import annotations

from typing import Final

from gateway.store.redis.scripts import Script

ENTRY_BYTES: Final = 700
BODY_BYTES: Final = 400
"""Measured with MEMORY USAGE: what an entry, and a body beside its bytes, take in Redis, rounded up."""

PIECE_MILLISECONDS: Final = 60_000
"""A piece whose body is not complete by then belongs to a gateway that was killed."""

MOST_MARKS: Final = 10_000

_COMMON: Final = (
    f"""
local ENTRY, BODY = {ENTRY_BYTES}, {BODY_BYTES}
"""
    + """
local function purged(scope, query)
  local last = 0
  local marks = redis.call('HMGET', P..'purged', '*', 's'..scope, 'q'..query, scope..':'..query)
  for i = 1, 4 do if marks[i] then last = math.max(last, tonumber(marks[i])) end end
  return last
end
local function drop_pieces(token, count)
  for i = 0, count - 1 do redis.call('UNLINK', P..'c:'..token..':'..i) end
end
local function drop_body(id)
  local body = redis.call('HMGET', P..'b:'..id, 'w', 't', 'k')
  if body[1] then
    drop_pieces(body[2], tonumber(body[3]))
    redis.call('DECRBY', P..'bytes', body[1] + BODY)
    redis.call('UNLINK', P..'b:'..id)
  end
  redis.call('ZREM', P..'lru', id)
end
local function drop_entry(key, spared)
  local entry = redis.call('HMGET', P..'e:'..key, 'b', 'g')
  if not entry[1] then return 0 end
  redis.call('DEL', P..'e:'..key)
  redis.call('DECRBY', P..'bytes', ENTRY)
  redis.call('DECR', P..'entries')
  redis.call('SREM', P..'q:'..entry[2], key)
  if redis.call('EXISTS', P..'q:'..entry[2]) == 0 then redis.call('SREM', P..'groups', entry[2]) end
  redis.call('SREM', P..'u:'..entry[1], key)
  if entry[1] ~= spared and redis.call('EXISTS', P..'u:'..entry[1]) == 0 then drop_body(entry[1]) end
  return 1
end
local function drop_entries_of(body)
  local keys = redis.call('SMEMBERS', P..'u:'..body)
  for _, key in ipairs(keys) do drop_entry(key) end
  drop_body(body)
end
local function body_of(id)
  return redis.call('HMGET', P..'b:'..id, 'd', 's', 't', 'k', 'x')
end
"""
)


def _script(text: str, *, makes_room: bool = True) -> Script:
    return Script(_COMMON + text, makes_room=makes_room)


PUT: Final = _script(
    """
local epoch_seen, seen, scope, query, id, digest = unpack(ARGV, 1, 6)
local size, weight, token, pieces, inline = unpack(ARGV, 7, 11)
local packed, confirmed, limit, lease, fence, news = unpack(ARGV, 12, 17)
local group, FIRST = scope..':'..query, 18
local function refuse(why)
  for i = FIRST, #ARGV do drop_entry(ARGV[i]) end
  drop_pieces(token, tonumber(pieces))
  return why
end
if lease ~= '' and redis.call('HGET', P..'l:'..lease, 'n') ~= fence then
  drop_pieces(token, tonumber(pieces))
  return -2
end
if epoch() ~= epoch_seen or purged(scope, query) > tonumber(seen) then return refuse(0) end
for i = 0, pieces - 1 do
  if redis.call('EXISTS', P..'c:'..token..':'..i) == 0 then return refuse(0) end
end
local old = redis.call('HMGET', P..'b:'..id, 'd', 'w')
local is_same = old[1] == digest
local more = is_same and 0 or weight + BODY - (old[2] and old[2] + BODY or 0)
more = more + ENTRY * (#ARGV - FIRST + 1)
if (tonumber(redis.call('GET', P..'bytes') or 0) or 0) + more > tonumber(limit) then return -1 end
if is_same then
  drop_pieces(token, tonumber(pieces))
else
  if old[1] then drop_entries_of(id) end
  for i = 0, pieces - 1 do redis.call('PERSIST', P..'c:'..token..':'..i) end
  redis.call('HSET', P..'b:'..id, 'd', digest, 's', size, 'w', weight, 't', token, 'k', pieces, 'x', inline)
  redis.call('INCRBY', P..'bytes', weight + BODY)
end
redis.call('ZADD', P..'lru', int(now()), id)
local number = announce('stored', news)
for i = FIRST, #ARGV do
  local key = ARGV[i]
  drop_entry(key, id)
  redis.call('HSET', P..'e:'..key, 'v', packed, 'k', key, 'c', confirmed, 'n', int(number), 'b', id, 'g', group)
  redis.call('SADD', P..'u:'..id, key)
  redis.call('SADD', P..'q:'..group, key)
  redis.call('SADD', P..'groups', group)
  redis.call('INCRBY', P..'bytes', ENTRY)
  redis.call('INCR', P..'entries')
end
return number
""",
    makes_room=False,
)
"""Number of the announcement; 0: there was a purge that this gateway has not heard of; -1: there is no room;
-2: another gateway has the lease, so what is there stays."""

FETCH: Final = _script(
    """
local entry = redis.call('HMGET', P..'e:'..ARGV[1], 'v', 'k', 'c', 'n', 'b', 'g')
if not entry[1] then return false end
local scope, query = string.match(entry[6], '^(.*):(.*)$')
local body = body_of(entry[5])
if purged(scope, query) > tonumber(entry[4]) or not body[1] then
  drop_entry(ARGV[1])
  return false
end
return {entry[1], entry[2], entry[3], body[1], body[2], body[3], body[4], body[5]}
"""
)
BODY: Final = _script("local body = body_of(ARGV[1]) return body[1] and body")
LOSE: Final = _script(
    """
if redis.call('HGET', P..'b:'..ARGV[1], 't') ~= ARGV[2] then return 0 end
drop_entries_of(ARGV[1])
return 1
"""
)
"""A body was found damaged. Without its entries nobody looks for it again."""

DROP: Final = _script(
    """
for i = 2, #ARGV do drop_entry(ARGV[i]) end
return announce('stored', ARGV[1])
"""
)
"""What is under these keys is not the newest, and the newest is not here."""

PURGE: Final = _script(
    """
local number = announce('purged', ARGV[2])
redis.call('HSET', P..'purged', ARGV[1], int(number))
if redis.call('HLEN', P..'purged') > tonumber(ARGV[3]) then
  redis.call('DEL', P..'purged')
  redis.call('HSET', P..'purged', '*', int(number))
end
return number
"""
)
"""What it means is gone from now on; `CLEAN` frees the memory, in steps."""

CLEAN: Final = _script(
    """
local found = redis.call('SSCAN', P..'q:'..ARGV[1], ARGV[2], 'COUNT', 100)
local count = 0
for _, key in ipairs(found[2]) do
  local number = redis.call('HGET', P..'e:'..key, 'n')
  if number and tonumber(number) < tonumber(ARGV[3]) then count = count + drop_entry(key) end
end
return {found[1], count}
"""
)
EVICT: Final = _script(
    """
local most, used = tonumber(ARGV[1]), tonumber(ARGV[2])
local time, count = int(now()), 0
for i = 3, 2 + used do redis.call('ZADD', P..'lru', 'XX', time, ARGV[i]) end
for i = 3 + used, #ARGV do
  if (tonumber(redis.call('GET', P..'bytes') or 0) or 0) <= most then break end
  drop_entries_of(ARGV[i])
  count = count + 1
end
return {(tonumber(redis.call('GET', P..'bytes') or 0) or 0), count}
"""
)
TOUCH: Final = _script(
    """
local time = int(now())
for i = 1, #ARGV do redis.call('ZADD', P..'lru', 'XX', time, ARGV[i]) end
return {(tonumber(redis.call('GET', P..'bytes') or 0) or 0), tonumber(redis.call('GET', P..'entries') or 0)}
"""
)
CONFIRM: Final = _script(
    """
local key, id, confirmed = unpack(ARGV)
local has = redis.call('HGET', P..'e:'..key, 'b')
if has and (id == '' or has == id) then redis.call('HSET', P..'e:'..key, 'c', confirmed) end
"""
)
DENY: Final = _script(
    """
for i = 2, #ARGV do
  if redis.call('EXISTS', P..'e:'..ARGV[i]) == 1 then redis.call('HSET', P..'e:'..ARGV[i], 'c', '-inf') end
end
return announce('denied', ARGV[1])
"""
)
"""The entries under these keys are not the newest: they count as never confirmed, in the memory of all gateways too."""


def mark(scope: str | None, query: int | None) -> str:
    """Return the field of `purged` for a scope (its digest) and a query; None: all."""
    if scope is not None and query is not None:
        return f"{scope}:{query}"
    if scope is not None:
        return f"s{scope}"
    return f"q{query}" if query is not None else "*"
