-- Delete a job that is over, with all that it has, and remember that: sites that are away hear of it later.
-- KEYS: jobs, record, log, deleted
-- ARGV: job_id, deletions (kept at most), retention_ms
-- Returns: {OK}: it is gone, now or before | {OPEN, status}: it is not over
-- Why atomic: a record and its chunks go together, and no job is gone without being remembered.
-- Why safe to run twice: what is gone is gone.
local known = redis.call('HMGET', record, 'status', 'submission')
local status, submission = known[1], known[2]
if status and not is_finished(status) then return {'OPEN', status} end

if submission then
  redis.call('ZADD', deleted, now(), job_id .. ' ' .. submission)
  for _, oldest in ipairs(redis.call('ZRANGE', deleted, 0, -deletions - 1)) do redis.call('ZREM', deleted, oldest) end
  keep(retention_ms, deleted)
end
delete_chunks(chunks_of(record, 'archive'))
delete_chunks(chunks_of(record, 'result'))
redis.call('UNLINK', record, log)
redis.call('ZREM', jobs, job_id)
return {'OK'}
