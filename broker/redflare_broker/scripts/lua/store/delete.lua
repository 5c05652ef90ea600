-- Delete a job that is over, with all that it has.
-- KEYS: jobs, record, log
-- ARGV: job_id
-- Returns: {OK}: it is gone, now or before | {OPEN, status}: it is not over
-- Why atomic: a record and its chunks go together.
-- Why safe to run twice: what is gone is gone.
local status = redis.call('HGET', record, 'status')
if status and not is_finished(status) then return {'OPEN', status} end

delete_chunks(chunks_of(record, 'archive'))
delete_chunks(chunks_of(record, 'result'))
redis.call('UNLINK', record, log)
redis.call('ZREM', jobs, job_id)
return {'OK'}
