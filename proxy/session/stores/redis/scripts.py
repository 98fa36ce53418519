"""What runs inside Redis, and how its answers are read. An operation is one script: it is atomic and takes one round trip.

All of a binding is in one hash, so one node of a cluster serves it, also while its slot is being moved. Its fields:
`tag`, `born`, `life`, `blob` the token · `renewal`, `login_turn` who has a right (owner:until) · `failures`,
`until`, `forget` the pause · `refused` what CardCash refused. Times are microseconds by Redis's own clock, so it does not
matter how the replicas' are set; what has expired by it counts as not there, and so does what lasts for longer than
anything that is written, because the clock was set back since. Needs Redis 5 for TIME before a write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from proxy.session.stores import Right

Answer = TypeVar("Answer")

MICRO: Final = 1_000_000
#: Seconds for which a right is given. Longer than a failover of Sentinels or of a cluster takes (4 s with what we
#: recommend): when the next master answers, whoever renews still has the right. Shorter than the 10 s of whoever waits.
LEASE: Final = 5.0
#: Seconds that a pause lasts at most, and for which failures are remembered after it.
_LONGEST_PAUSE: Final = 30.0
_FAILURES_FOR: Final = 600.0
#: What CardCash refused outlives a restart, and is forgotten with a proxy that is gone.
_REFUSED_FOR: Final = 30 * 86_400.0
#: Seconds by which a writer may be wrong about Redis's time.
_OFF: Final = 0.5
#: The tag of what no script of ours can have written.
FOREIGN: Final = b"?"
#: The fields of the rights.
RIGHTS: Final = {Right.RENEWAL: "renewal", Right.LOGIN: "login_turn"}

_CONSTANTS: Final = {
    "LEASE": LEASE,
    "PAUSE": _LONGEST_PAUSE,
    "FAILURES": _FAILURES_FOR,
    "REFUSED": _REFUSED_FOR,
    "OFF": _OFF,
}
_COMMON: Final = (
    "".join(f"local {name} = {seconds * MICRO:.0f}\n" for name, seconds in _CONSTANTS.items())
    + """
-- Lua's numbers are doubles, exact up to 2^53 microseconds, the year 2255
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local names = {'tag', 'born', 'life', 'blob', 'renewal', 'login_turn', 'failures', 'until', 'forget', 'refused'}
local found = redis.pcall('HMGET', KEYS[1], unpack(names))
-- a type that we never gave it counts as nothing
local is_foreign = found['err'] and string.find(found['err'], 'WRONGTYPE', 1, true)
if found['err'] and not is_foreign then return found end

local f = {}
for n, name in ipairs(names) do f[name] = not is_foreign and found[n] or nil end

local function number(n) return string.format('%.0f', n) end

-- fields and their values, which last for so many microseconds at least
local function write(lasts, ...)
  -- nothing of ours is deleted first: a Redis out of memory allows that, and refuses what comes after it
  if is_foreign then redis.call('DEL', KEYS[1]) end
  is_foreign = false
  redis.call('HSET', KEYS[1], ...)
  for n = 1, select('#', ...), 2 do f[select(n, ...)] = select(n + 1, ...) end
  lasts = math.ceil(lasts / 1000)
  if redis.call('PTTL', KEYS[1]) < lasts then redis.call('PEXPIRE', KEYS[1], lasts) end
end

-- fields, the first of which is there if any is
local function erase(first, ...)
  if f[first] then redis.call('HDEL', KEYS[1], first, ...) end
  f[first] = nil
end

local function give(right, owner)
  write(LEASE, right, owner .. ':' .. number(now + LEASE))
end

-- who has a right, and for how long
local function holder(right)
  local owner, till = string.match(f[right] or '', '^(%x+):(%d+)$')
  if not owner or tonumber(till) <= now then return '', 0 end
  return owner, tonumber(till) - now
end

-- the right is another's; it begins anew if the clock was set back, since its holder may be dead
local function anothers(right, owner)
  local has, left = holder(right)
  if has == '' or has == owner then return false end
  if left > LEASE then give(right, has) end
  return true
end

local function leave(right, owner)
  if holder(right) == owner then erase(right) end
end

-- tag and blob of the token; nothing: there is none; tag '?' and no blob: what is there is not of our making
local function token()
  local born, life = tonumber(f.born), tonumber(f.life)
  if f.tag and born and life and (f.blob or '') ~= '' then
    if now - born < life then return f.tag, f.blob end
  elseif is_foreign or f.tag or f.born or f.life or f.blob then
    return '?', ''
  end
end

-- failures in a row, and how long the pause lasts; they are forgotten by themselves
local function paused()
  local left, forget = (tonumber(f['until']) or 0) - now, (tonumber(f.forget) or 0) - now
  if forget <= 0 or forget > PAUSE + FAILURES then return 0, 0 end
  return tonumber(f.failures) or 0, left <= PAUSE and math.max(0, left) or 0
end

-- all there is; who knows by which bytes the blob begins is spared the 1.5 kB of it
local function answer(verdict, known)
  local failures, pause = paused()
  local a = {verdict, number(now), failures, number(pause), f.refused or ''}
  local tag, blob = token()
  if tag then a[6], a[7] = tag, #known > 0 and string.sub(blob, 1, #known) == known and '' or blob end
  return a
end
"""
)

# name of what was seen last
_LOOK: Final = "return answer('look', ARGV[1])"

# name of what was seen last, owner, tag that is no news, whether neither news nor a pause counts, tag of what does not count
_ENTER: Final = """
if ARGV[4] == '0' then
  local verdict
  local tag = token()
  local _, pause = paused()
  if tag and tag ~= '?' and tag ~= ARGV[3] and tag ~= ARGV[5] then
    verdict = 'news'
  elseif pause > 0 then
    verdict = 'paused'
  end
  if verdict then
    leave('renewal', ARGV[2])
    return answer(verdict, ARGV[1])
  end
end
if anothers('renewal', ARGV[2]) then return answer('busy', ARGV[1]) end
give('renewal', ARGV[2])
return answer('granted', ARGV[1])
"""

# the time that was reckoned with, expected tag ('': nothing), tag, born, life, blob
_SAVE: Final = """
local function answered(verdict) return {verdict, number(now)} end
local tag, blob = token()
if math.abs((tonumber(ARGV[1]) or 0) - now) > OFF then return answered('clock') end
if (tag or '') ~= ARGV[2] then
  -- the same bytes: it was stored by this very call, whose answer was lost
  return answered(blob == ARGV[6] and 'saved' or 'lost')
end
local left = tonumber(ARGV[4]) + tonumber(ARGV[5]) - now
if left > 0 then
  write(left, 'tag', ARGV[3], 'born', ARGV[4], 'life', ARGV[5], 'blob', ARGV[6])
elseif tag and not is_foreign then
  redis.call('HDEL', KEYS[1], 'tag', 'born', 'life', 'blob')
end
return answered('saved')
"""

# owner, microseconds of the pause
_FAILED: Final = """
local failures, pause = paused()
pause = math.min(math.max(pause, tonumber(ARGV[2])), PAUSE)
leave('renewal', ARGV[1])
write(pause + FAILURES, 'failures', failures + 1, 'until', number(now + pause), 'forget', number(now + pause + FAILURES))
return '1'
"""

# sealed refusals ('': none, whatever there is), those that were read
_REFUSE: Final = """
if ARGV[1] == '' then
  erase('refused')
elseif (f.refused or '') == ARGV[2] then
  write(REFUSED, 'refused', ARGV[1])
else
  return '0'
end
return '1'
"""

# A right, owner.
_TAKE: Final = """
if anothers(ARGV[1], ARGV[2]) then return '0' end
give(ARGV[1], ARGV[2])
return '1'
"""

# A right, owner.
_EXTEND: Final = """
if holder(ARGV[1]) ~= ARGV[2] then return '0' end
give(ARGV[1], ARGV[2])
return '1'
"""

# A right, owner, whether the pause is over too.
_LEAVE: Final = """
leave(ARGV[1], ARGV[2])
if ARGV[3] == '1' then erase('failures', 'until', 'forget') end
return '1'
"""

# A key of no meaning: it is written, and the time is told.
_PROBE: Final = """
write(1000000, 'probe', '1')
redis.call('DEL', KEYS[1])
return number(now)
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the scripts answer that are about all of a binding. Nothing in it is believed before it is authenticated."""

    verdict: str
    #: Redis's time (microseconds).
    now: int
    #: Session calls that failed in a row, and seconds until one may be made again.
    failures: int
    pause: float
    #: Refusals as they are stored; empty: none.
    refused: bytes = field(repr=False)
    #: Of the token that is stored; None: nothing is.
    tag: bytes | None = None
    #: Empty for whoever said that it knows what is stored.
    blob: bytes = field(default=b"", repr=False)


class NotOurScript(Exception):
    """An answer that no script of ours gives."""


def _text(raw: object) -> bytes:
    if not isinstance(raw, bytes):
        raise TypeError  # bytes(number) would be as many zeros
    return raw


def _reply(raw: Any) -> Reply:
    verdict, now, failures, pause, refused, *entry = raw
    tag, blob = map(_text, entry) if entry else (None, b"")
    return Reply(_text(verdict).decode("ascii"), int(now), int(failures), int(pause) / MICRO, _text(refused), tag, blob)


def _saved(raw: Any) -> tuple[str, int]:
    verdict, now = raw
    return _text(verdict).decode("ascii"), int(now)


@dataclass(frozen=True, slots=True)
class Script(Generic[Answer]):
    """One script; `name` is the operation that is measured, `sha` its name in Redis's cache."""

    name: str
    source: str
    _read: Callable[[Any], Answer]
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The name by which Redis knows it, no signature.
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    def read(self, raw: Any) -> Answer:
        """Read its answer. Raises `NotOurScript`."""
        try:
            return self._read(raw)
        except (ValueError, TypeError):
            raise NotOurScript from None


LOOK: Final = Script("look", _COMMON + _LOOK, _reply)
ENTER: Final = Script("enter", _COMMON + _ENTER, _reply)
SAVE: Final = Script("save", _COMMON + _SAVE, _saved)
FAILED: Final = Script("failed", _COMMON + _FAILED, int)
REFUSE: Final = Script("refuse", _COMMON + _REFUSE, int)
TAKE: Final = Script("login", _COMMON + _TAKE, int)
EXTEND: Final = Script("extend", _COMMON + _EXTEND, int)
LEAVE: Final = Script("leave", _COMMON + _LEAVE, int)
PROBE: Final = Script("look", _COMMON + _PROBE, int)
