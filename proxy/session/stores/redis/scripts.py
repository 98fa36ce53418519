"""What runs inside Redis: each operation is one script, so it is atomic and takes one round trip.

The keys of one binding have its id as their hash tag, so one node of a cluster serves them all:
`s` the token (hash: tag, login, born, life, blob) · `l` the right to renew, `t` the one to handle a login (owner:until) ·
`p` the pause (hash: failures, until) · `x` what CardCash refused · `d` nothing, `doctor` writes it. Times are microseconds
by Redis's own clock, so it does not matter how the replicas' are set; what has expired by it counts as not there. Needs
Redis 5 for TIME before a write.

The first argument of each script is the time that counts instead, for tests; empty otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

# Lua's numbers are doubles, exact up to 2^53 µs, the year 2255.
_TIME: Final = """
local time = redis.call('TIME')
local now = tonumber(ARGV[1]) or time[1] * 1000000 + time[2]

local function number(n) return string.format('%.0f', n) end

-- nothing where there is nothing, or something of a type that we never gave it
local function read(...)
  local r = redis.pcall(...)
  if type(r) ~= 'table' or not r['err'] then return r end
  return not string.find(r['err'], 'WRONGTYPE', 1, true) and redis.call(...)
end

-- who has a right, and for how long
local function holder(key)
  local owner, till = string.match(read('GET', key) or '', '^(%x+):(%d+)$')
  if not owner or tonumber(till) <= now then return '', 0 end
  return owner, tonumber(till) - now
end

local function give(key, owner, microseconds)
  redis.call('SET', key, owner .. ':' .. number(now + microseconds), 'PX', math.ceil(microseconds / 1000))
end
"""

_COMMON: Final = (
    _TIME
    + """
-- {tag, age, life, login, blob}; false: nothing is there; tag '?' and no blob: what is there is not of our making
local function stored()
  local e = read('HMGET', KEYS[1], 'tag', 'born', 'life', 'login', 'blob') or {}
  local born, life = tonumber(e[2]), tonumber(e[3])
  if not (e[1] and born and life and e[5]) then
    return redis.call('EXISTS', KEYS[1]) == 1 and {'?', 0, 0, '', ''}
  end
  local age = math.max(0, now - born)
  if age >= life then return false end
  return {e[1], age, life, e[4] or '0', e[5]}
end

-- failures in a row, and how long the pause lasts; they are forgotten by themselves
local function paused()
  local p = read('HMGET', KEYS[3], 'failures', 'until', 'forget') or {}
  if (tonumber(p[3]) or 0) <= now then return 0, 0 end
  return tonumber(p[1]) or 0, math.max(0, (tonumber(p[2]) or 0) - now)
end

local function answer(verdict, e, known)
  local failures, pause = paused()
  local _, held = holder(KEYS[2])
  local a = {verdict, failures, number(pause), number(held), read('GET', KEYS[4]) or ''}
  if not e then return a end
  a[6], a[7], a[8] = e[1], number(e[2]), number(e[3])
  -- who knows it is spared the 1.5 kB of it
  a[9] = e[1] .. e[4] == known and '' or e[5]
  return a
end
"""
)

# tag and login of what was seen last
_LOOK: Final = "return answer('look', stored(), ARGV[2])"

# tag and login of what was seen last, owner, µs, tag that is no news, whether an anonymous token is none, whether neither
# news nor a pause counts, tag of what cannot be read
_ENTER: Final = """
local e = stored()
local owner = holder(KEYS[2])
if ARGV[7] == '0' then
  local verdict
  local _, pause = paused()
  local is_new = e and e[5] ~= '' and e[1] ~= ARGV[5] and e[1] ~= ARGV[8]
  if is_new and (ARGV[6] == '0' or e[4] == '1') then
    verdict = 'news'
  elseif pause > 0 then
    verdict = 'paused'
  end
  if verdict then
    if owner == ARGV[3] then redis.call('DEL', KEYS[2]) end
    return answer(verdict, e, ARGV[2])
  end
end
if owner ~= '' and owner ~= ARGV[3] then return answer('busy', e, ARGV[2]) end
give(KEYS[2], ARGV[3], tonumber(ARGV[4]))
return answer('granted', e, ARGV[2])
"""

# expected tag ('': nothing), tag, login, age, life, blob
_SAVE: Final = """
local e = stored()
if e then
  if e[1] ~= ARGV[2] then
    -- the same bytes: it was stored by this very call, whose answer was lost
    if e[1] == ARGV[3] and e[5] == ARGV[7] then return answer('saved', false, '') end
    return answer('lost', e, '')
  end
elseif ARGV[2] ~= '' then
  return answer('lost', false, '')
end
local left = math.ceil((tonumber(ARGV[6]) - tonumber(ARGV[5])) / 1000)
if left > 0 then
  -- nothing of ours is deleted first: a Redis out of memory allows that, and refuses what comes after it
  if e and e[1] == '?' then redis.call('DEL', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'tag', ARGV[3], 'login', ARGV[4], 'born', number(now - ARGV[5]), 'life', ARGV[6],
    'blob', ARGV[7])
  redis.call('PEXPIRE', KEYS[1], left)
else
  redis.call('DEL', KEYS[1])
end
return answer('saved', false, '')
"""

# owner, µs of the pause, µs for which the failures are remembered after it
_FAILED: Final = """
local failures, pause = paused()
pause = math.max(pause, tonumber(ARGV[3]))
if holder(KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
if not read('HMGET', KEYS[3], 'until') then redis.call('DEL', KEYS[3]) end
redis.call('HSET', KEYS[3], 'failures', failures + 1, 'until', number(now + pause), 'forget',
  number(now + pause + ARGV[4]))
redis.call('PEXPIRE', KEYS[3], math.ceil((pause + ARGV[4]) / 1000))
return answer('failed', false, '')
"""

# sealed refusals ('': none, whatever there is), milliseconds, those that were read
_REFUSE: Final = """
if ARGV[2] == '' then
  redis.call('DEL', KEYS[4])
elseif (read('GET', KEYS[4]) or '') == ARGV[4] then
  redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[3])
else
  return '0'
end
return '1'
"""

# One right: owner, µs. Answers how long another may have it.
_TAKE: Final = """
local owner, left = holder(KEYS[1])
if owner ~= '' and owner ~= ARGV[2] then return number(left) end
give(KEYS[1], ARGV[2], tonumber(ARGV[3]))
return '0'
"""

# One right: owner, µs.
_EXTEND: Final = """
if holder(KEYS[1]) ~= ARGV[2] then return '0' end
give(KEYS[1], ARGV[2], tonumber(ARGV[3]))
return '1'
"""

# One right: owner. The pause is over if there is a second key.
_LEAVE: Final = """
if holder(KEYS[1]) == ARGV[2] then redis.call('DEL', KEYS[1]) end
if KEYS[2] then redis.call('DEL', KEYS[2]) end
return '1'
"""

# The pause.
_END: Final = "redis.call('DEL', KEYS[1]) return '1'"

# A key of no meaning: it is written, and the time is told.
_PROBE: Final = """
redis.call('SET', KEYS[1], '1', 'PX', 1000)
redis.call('DEL', KEYS[1])
local time = redis.call('TIME')
return number(time[1] * 1000000 + time[2])
"""


@dataclass(frozen=True, slots=True)
class Script:
    """One script; `name` is the operation that is measured, `sha` its name in Redis's cache."""

    name: str
    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The name by which Redis knows it, no signature.
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


LOOK: Final = Script("look", _COMMON + _LOOK)
ENTER: Final = Script("enter", _COMMON + _ENTER)
SAVE: Final = Script("save", _COMMON + _SAVE)
FAILED: Final = Script("failed", _COMMON + _FAILED)
REFUSE: Final = Script("refuse", _TIME + _REFUSE)
TAKE: Final = Script("login", _TIME + _TAKE)
EXTEND: Final = Script("extend", _TIME + _EXTEND)
LEAVE: Final = Script("leave", _TIME + _LEAVE)
END: Final = Script("leave", _END)
PROBE: Final = Script("look", _TIME + _PROBE)
