"""What the processes that share a Redis do to a store, each step one script on the server.

Every key of a store carries its name in braces, so that in a cluster all of them lie in one slot:

=============  ==========================================================================
``{name}:e:K``  the entry under key K, as bytes
``{name}:m``    hash: K → its bytes, its density, its weight
``{name}:r``    sorted set: K by rank, the lowest goes first
``{name}:c``    hash of counts: ``bytes``, ``touches``, ``floor``, ``token``
``{name}:l:K``  the token of who may fill K, for as long as its lease lasts (`leases.redis`)
=============  ==========================================================================

Ranks are those of `kernel.score`, computed on the server, where all processes' touches meet.
"""

from __future__ import annotations

__all__ = ["CLEAR", "DISCARD", "PUT", "SHRINK", "TOUCH"]

_COMMON = """
local name, policy, growth = KEYS[1], ARGV[1], tonumber(ARGV[2])
local function count(field) return tonumber(redis.call('HGET', name .. ':c', field) or '0') end
local function forget(key)
  local known = redis.call('HGET', name .. ':m', key)
  if known then
    redis.call('HINCRBY', name .. ':c', 'bytes', -cmsgpack.unpack(known)[1])
    redis.call('HDEL', name .. ':m', key)
  end
  redis.call('ZREM', name .. ':r', key)
  return redis.call('DEL', name .. ':e:' .. key)
end
local function keep(key, size, density, weight)
  local touches = redis.call('HINCRBY', name .. ':c', 'touches', 1)
  local rank
  if policy == 'half_life' then
    local gain = touches * growth
    if weight == 0 then weight = gain
    else
      local low, high = math.min(weight, gain), math.max(weight, gain)
      weight = high + math.log(1 + math.exp(low - high))
    end
    rank = weight + density
  elseif policy == 'gdsf' then
    weight = weight + 1
    rank = count('floor') + weight * math.exp(density)
  else
    rank = touches
  end
  redis.call('HSET', name .. ':m', key, cmsgpack.pack({size, density, weight}))
  redis.call('ZADD', name .. ':r', string.format('%.17g', rank), key)
end
local function shrink(limit, new)
  local over, gone = count('bytes') - limit, {}
  if over <= 0 then return gone end
  local victims = {}
  for start = 0, redis.call('ZCARD', name .. ':r'), 100 do
    local page = redis.call('ZRANGE', name .. ':r', start, start + 99, 'WITHSCORES')
    for i = 1, #page, 2 do
      local known = redis.call('HGET', name .. ':m', page[i])
      if over > 0 then
        victims[#victims + 1] = {page[i], page[i + 1]}
        if known then over = over - cmsgpack.unpack(known)[1] end
        if page[i] == new then victims = {victims[#victims]}; over = 0 end
      end
    end
    if over <= 0 or #page == 0 then break end
  end
  for _, victim in ipairs(victims) do
    if tonumber(victim[2]) > count('floor') then
      redis.call('HSET', name .. ':c', 'floor', victim[2])
    end
    forget(victim[1])
    gone[#gone + 1] = victim[1]
  end
  return gone
end
"""

PUT = f"""{_COMMON}
local key, blob, size, density = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local limit, seconds, token = tonumber(ARGV[7]), ARGV[8], ARGV[9]
if token ~= '' and redis.call('GET', name .. ':l:' .. key) ~= token then return false end
forget(key)
redis.call('SET', name .. ':e:' .. key, blob, 'EX', seconds)
redis.call('HINCRBY', name .. ':c', 'bytes', size)
keep(key, size, density, 0)
return shrink(limit, key)
"""

TOUCH = f"""{_COMMON}
for i = 3, #ARGV do
  local known = redis.call('HGET', name .. ':m', ARGV[i])
  if known then
    local of = cmsgpack.unpack(known)
    keep(ARGV[i], of[1], of[2], of[3])
  end
end
"""

DISCARD = f"""{_COMMON}
local blob = redis.call('GET', name .. ':e:' .. ARGV[3])
if #ARGV == 3 or blob == ARGV[4] then forget(ARGV[3]) end
return blob
"""

SHRINK = f"""{_COMMON}
return shrink(tonumber(ARGV[3]), '')
"""

CLEAR = f"""{_COMMON}
for _, key in ipairs(redis.call('HKEYS', name .. ':m')) do
  redis.call('DEL', name .. ':e:' .. key)
end
redis.call('DEL', name .. ':m', name .. ':r')
redis.call('HDEL', name .. ':c', 'bytes', 'floor')
"""
