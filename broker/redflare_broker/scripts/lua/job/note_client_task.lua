-- Write a client task into its task's record: sent, or with its result.
-- KEYS: cell, job, task, blobs
-- ARGV: instance, epoch, run, client_task_id, record (JSON, received first), resume (1: results are kept),
--       result_prefix (of the result's chunks; '': inline, or none), chunks, retention_ms, fields (of the result) ...
-- Returns: {OK} | {GONE}: the task's record is gone, and the payload is marked free | {ENDED, reason}: the job is over |
--          {FENCED} | {LOST}
-- Why atomic: a result that is noted has its payload owned.
-- Why safe to run twice: the first result counts, and one that is in is not taken back.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
local field = 'client:' .. client_task_id
local known = redis.call('HMGET', task, 'kind', field)
if not known[1] then
  own(blobs, result_prefix, chunks, run, retention_ms)
  free(blobs, result_prefix)
  return {'GONE'}
end
if known[2] and not is_open(known[2]) then return {'OK'} end

if known[1] == 'broadcast_forever' and resume == '0' and not is_open(record) then
  redis.call('HDEL', task, field)
else
  redis.call('HSET', task, field, record, unpack(ARGV, fields_from))
end
own(blobs, result_prefix, chunks, run, retention_ms)
return {'OK'}
