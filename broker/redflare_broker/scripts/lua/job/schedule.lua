-- Write a task's record, before any client can see the task; for one that has a record already, write it anew.
-- KEYS: cell, job, task, standing, ended, blobs
-- ARGV: instance, epoch, run, root_id, order, data_prefix (of its data's chunks; '': inline), chunks, retention_ms,
--       again (1: also if it has ended), fields (of the record) ...
-- Returns: {OK} | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: an open task has a record.
-- Why safe to run twice: it writes the same again; what comes late, behind the end of the task, changes nothing.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
if again == '0' and (redis.call('HGET', task, 'status') or 'STANDING') ~= 'STANDING' then return {'OK'} end
local before = prefix_of(redis.call('HGET', task, 'data:blobs'))
for _, name in ipairs(redis.call('HKEYS', task)) do
  if string.find(name, '^data') then redis.call('HDEL', task, name) end
end
redis.call('HSET', task, unpack(ARGV, fields_from))
redis.call('ZREM', ended, root_id)
redis.call('ZADD', standing, order, root_id)
own(blobs, data_prefix, chunks, run, retention_ms)
if before ~= data_prefix then free(blobs, before) end
keep(retention_ms, task, standing)
return {'OK'}
