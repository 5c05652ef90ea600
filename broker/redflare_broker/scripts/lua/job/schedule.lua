-- A task's ledger is written, before any client can see the task; for one that has a ledger already, written anew.
-- KEYS: cell, job, task, standing, ended, blobs
-- ARGV: instance, epoch, run, root id, order, prefix of its data's chunks ('': inline), chunks, retention ms,
--       again (1: also if it has ended), fields of the ledger ...
-- Returns: {OK} | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: a task that stands has a ledger.
-- Why safe to run twice: it writes the same again; what comes late, behind the end of the task, changes nothing.
local task, blobs = KEYS[3], KEYS[6]
local held, reason = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held, reason} end
if ARGV[9] == '0' and (redis.call('HGET', task, 'status') or 'STANDING') ~= 'STANDING' then return {'OK'} end
local before = prefix_of(redis.call('HGET', task, 'data:blobs'))
for _, name in ipairs(redis.call('HKEYS', task)) do
  if string.find(name, '^data') then redis.call('HDEL', task, name) end
end
redis.call('HSET', task, unpack(ARGV, 10))
redis.call('ZREM', KEYS[5], ARGV[4])
redis.call('ZADD', KEYS[4], ARGV[5], ARGV[4])
own(blobs, ARGV[6], ARGV[7], ARGV[3], ARGV[8])
if before ~= ARGV[6] then free(blobs, before) end
keep(ARGV[8], task, KEYS[4])
return {'OK'}
