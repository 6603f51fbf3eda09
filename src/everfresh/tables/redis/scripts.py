"""What runs inside Redis: each script is one step that no other client sees half done.

A field of the hash of records holds the table's mark. Every script is told the mark and answers
nothing if another is there: then the data is not what this process put there, because the server
lost it or somebody else wrote it.
"""

from __future__ import annotations

__all__ = ["BEGIN", "COUNT", "FIND", "MARK", "MERGE", "REPLACE", "WRITE"]

MARK = "everfresh:mark"
"""The field of the mark; no primary key may be encoded as this."""

_CHECK = f"""
if redis.call('HGET', KEYS[1], '{MARK}') ~= ARGV[1] then return false end
"""

BEGIN = f"""
redis.call('HSETNX', KEYS[1], '{MARK}', ARGV[1])
return redis.call('HGET', KEYS[1], '{MARK}')
"""
"""KEYS records; ARGV a mark. Return the mark that is there; this one is put if there is none."""

FIND = (
    _CHECK
    + """
local found = {}
for at = 2, #ARGV, 2 do
  local keys = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[at], ARGV[at + 1])
  for start = 1, #keys, 4000 do
    local some = redis.call('HMGET', KEYS[1], unpack(keys, start, math.min(start + 3999, #keys)))
    for _, record in ipairs(some) do found[#found + 1] = record end
  end
end
return found
"""
)
"""KEYS records, index; ARGV mark, then pairs of lowest and highest score."""

COUNT = (
    _CHECK
    + """
local count = 0
for at = 2, #ARGV, 2 do count = count + redis.call('ZCOUNT', KEYS[2], ARGV[at], ARGV[at + 1]) end
return count
"""
)
"""KEYS records, index; ARGV mark, then pairs of lowest and highest score."""

WRITE = (
    _CHECK
    + """
local names = #KEYS - 1
local step = names + 2
for at = 2, #ARGV, step do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
    for n = 1, names do redis.call('ZREM', KEYS[1 + n], ARGV[at]) end
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
    for n = 1, names do redis.call('ZADD', KEYS[1 + n], ARGV[at + 1 + n], ARGV[at]) end
  end
end
return 1
"""
)
"""KEYS records, indexes; ARGV mark, then key, record ('' deletes), a score per index."""

MERGE = (
    _CHECK
    + """
local names = (#KEYS - 3) / 2
local gone = redis.call('LRANGE', KEYS[3], 0, -1)
for _, key in ipairs(gone) do
  redis.call('HDEL', KEYS[1], key)
  for n = 1, names do redis.call('ZREM', KEYS[3 + n], key) end
end
local put = redis.call('HGETALL', KEYS[2])
for at = 1, #put, 2 do redis.call('HSET', KEYS[1], put[at], put[at + 1]) end
for n = 1, names do
  local scored = redis.call('ZRANGE', KEYS[3 + names + n], 0, -1, 'WITHSCORES')
  for at = 1, #scored, 2 do redis.call('ZADD', KEYS[3 + n], scored[at + 1], scored[at]) end
  redis.call('UNLINK', KEYS[3 + names + n])
end
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
"""
)
"""KEYS records, staged records, staged deletions, indexes, staged indexes; ARGV mark."""

REPLACE = f"""
local names = (#KEYS - 3) / 2
redis.call('UNLINK', KEYS[1], KEYS[3])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end
for n = 1, names do
  redis.call('UNLINK', KEYS[3 + n])
  if redis.call('EXISTS', KEYS[3 + names + n]) == 1 then
    redis.call('RENAME', KEYS[3 + names + n], KEYS[3 + n])
  end
end
redis.call('HSET', KEYS[1], '{MARK}', ARGV[1])
return 1
"""
"""KEYS as for MERGE; ARGV the new mark. Put what is staged in place of the whole table."""
