"""What runs inside Redis: each script is one step that no other client sees half done.

Every script is told the mark of the table and answers nothing if another is there: then the data
is not what this process put there, because the server lost it or somebody else wrote it.
"""

from __future__ import annotations

__all__ = ["BEGIN", "COUNT", "FIND", "GET", "MERGE", "REPLACE", "WRITE"]

_CHECK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
"""

BEGIN = """
redis.call('SETNX', KEYS[1], ARGV[1])
return redis.call('GET', KEYS[1])
"""
"""KEYS mark; ARGV a mark. Return the mark that is there; this one is put if there is none."""

GET = _CHECK + "return redis.call('HMGET', KEYS[2], unpack(ARGV, 2))"
"""KEYS mark, records; ARGV mark, keys. Return the records, or nils."""

FIND = (
    _CHECK
    + """
local found = {}
for at = 2, #ARGV, 2 do
  local keys = redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[at], ARGV[at + 1])
  for start = 1, #keys, 4000 do
    local some = redis.call('HMGET', KEYS[2], unpack(keys, start, math.min(start + 3999, #keys)))
    for _, record in ipairs(some) do found[#found + 1] = record end
  end
end
return found
"""
)
"""KEYS mark, records, index; ARGV mark, then pairs of lowest and highest score."""

COUNT = (
    _CHECK
    + """
local count = 0
for at = 2, #ARGV, 2 do count = count + redis.call('ZCOUNT', KEYS[2], ARGV[at], ARGV[at + 1]) end
return count
"""
)
"""KEYS mark, index; ARGV mark, then pairs of lowest and highest score."""

WRITE = (
    _CHECK
    + """
local names = #KEYS - 2
local step = names + 2
for at = 2, #ARGV, step do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[at])
    for n = 1, names do redis.call('ZREM', KEYS[2 + n], ARGV[at]) end
  else
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    for n = 1, names do redis.call('ZADD', KEYS[2 + n], ARGV[at + 1 + n], ARGV[at]) end
  end
end
return 1
"""
)
"""KEYS mark, records, indexes; ARGV mark, then key, record ('' deletes), a score per index."""

MERGE = (
    _CHECK
    + """
local names = (#KEYS - 4) / 2
local gone = redis.call('LRANGE', KEYS[4], 0, -1)
for _, key in ipairs(gone) do
  redis.call('HDEL', KEYS[2], key)
  for n = 1, names do redis.call('ZREM', KEYS[4 + n], key) end
end
local put = redis.call('HGETALL', KEYS[3])
for at = 1, #put, 2 do redis.call('HSET', KEYS[2], put[at], put[at + 1]) end
for n = 1, names do
  local scored = redis.call('ZRANGE', KEYS[4 + names + n], 0, -1, 'WITHSCORES')
  for at = 1, #scored, 2 do redis.call('ZADD', KEYS[4 + n], scored[at + 1], scored[at]) end
  redis.call('UNLINK', KEYS[4 + names + n])
end
redis.call('UNLINK', KEYS[3], KEYS[4])
return 1
"""
)
"""KEYS mark, records, staged records, staged deletions, indexes, staged indexes; ARGV mark."""

REPLACE = """
local names = (#KEYS - 4) / 2
redis.call('UNLINK', KEYS[2], KEYS[4])
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('RENAME', KEYS[3], KEYS[2]) end
for n = 1, names do
  redis.call('UNLINK', KEYS[4 + n])
  if redis.call('EXISTS', KEYS[4 + names + n]) == 1 then
    redis.call('RENAME', KEYS[4 + names + n], KEYS[4 + n])
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""
"""KEYS as for MERGE; ARGV the new mark. Put what is staged in place of the whole table."""
