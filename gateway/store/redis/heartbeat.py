"""The scripts by which a gateway joins, and learns again and again which announcement was the last.

epoch   a new one begins when Redis may have lost something: announcements of two epochs have nothing in common
seq     number of the last announcement;  news: the channel of announcements
run     which server this was;  time: what its clock said last
peers   who is here (`neighbours`)
"""

from __future__ import annotations

from typing import Final

from gateway.store.redis.scripts import Script

_RENEW: Final = """
-- All that is there counts as purged: it may lack the last purges, or look too young.
local function renew()
  redis.call('DEL', P..'epoch')
  redis.call('HSET', P..'purged', '*', int(redis.call('INCR', P..'seq')))
end
local time, last = now(), tonumber(redis.call('GET', P..'time') or 0)
if time < last - 1000000 then renew() end
redis.call('SET', P..'time', int(time))
local function state() return {epoch(), tonumber(redis.call('GET', P..'seq') or 0), time} end
"""
JOIN: Final = Script(
    _RENEW
    + """
local was = redis.call('GET', P..'run')
if was ~= ARGV[1] then
  redis.call('SET', P..'run', ARGV[1])
  if was then renew() end
end
local reply = state()
reply[4] = redis.call('ZCARD', P..'peers') + (redis.call('ZSCORE', P..'peers', ARGV[2]) and 0 or 1)
return reply
""",
    makes_room=True,
)
"""Another server than before, or one that was restarted, begins a new epoch."""

BEAT: Final = Script(
    _RENEW
    + """
redis.call('ZADD', P..'peers', int(time), ARGV[1])
redis.call('ZREMRANGEBYSCORE', P..'peers', '-inf', int(time - tonumber(ARGV[2]) * 1000000))
local reply = state()
reply[4] = redis.call('ZCARD', P..'peers')
reply[5] = redis.call('ZCOUNT', P..'peers', int(time - tonumber(ARGV[3]) * 1000000), '+inf')
return reply
""",
    makes_room=True,
)
