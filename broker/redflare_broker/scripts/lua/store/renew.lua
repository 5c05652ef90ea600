-- Renew a job that is not over; one that is gone goes from the list.
-- KEYS: jobs, record, log
-- ARGV: job_id, retention_ms
-- Returns: {OK}, also of a job that is over, which is left alone | {UNKNOWN}
-- Why atomic: a job that was submitted this moment must not be unlisted.
-- Why safe to run twice: it only renews.
local status = redis.call('HGET', record, 'status')
if not status then
  redis.call('ZREM', jobs, job_id)
  return {'UNKNOWN'}
end
if not is_finished(status) then
  -- chunks are many: twice in each retention time is enough
  if redis.call('PTTL', record) < tonumber(retention_ms) / 2 then renew_job(jobs, record, log, retention_ms) end
  redis.call('PEXPIRE', jobs, retention_ms)
end
return {'OK'}
