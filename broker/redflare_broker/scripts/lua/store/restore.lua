-- Write the record of a job that Redis has lost while the job runs; its archive is gone, and so is its log.
-- KEYS: jobs, record, log
-- ARGV: job_id, submission, submitted (ms), retention_ms, log_lines (at most), fields (of the record) ...
-- Returns: {OK}: it is there, now or before | {KNOWN}: another job has been submitted under this id
-- Why atomic: a job that was submitted anew must not be written over.
-- Why safe to run twice: a record that is there is left as it is.
local known = redis.call('HMGET', record, 'status', 'submission')
if known[1] then return {known[2] == submission and 'OK' or 'KNOWN'} end

redis.call('UNLINK', record, log)
redis.call('HSET', record, unpack(ARGV, fields_from))
redis.call('XADD', log, 'MAXLEN', log_lines, '*', 'site', '', 'status', redis.call('HGET', record, 'status'), 'text',
  'Redis had lost this job: its record was written again, the log before is gone')
redis.call('ZADD', jobs, submitted, job_id)
keep(retention_ms, jobs, record, log)
return {'OK'}
