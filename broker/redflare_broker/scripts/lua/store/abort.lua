-- Ask for a job's end. One that no site has seen yet is over at once; of any other, the server sees to it.
-- KEYS: jobs, record, log
-- ARGV: by, reason, change (JSON: status, reason, by), retention_ms, log_lines (at most)
-- Returns: {OK, the record}, also when it is over already | {UNKNOWN}
-- Why atomic: a job is either dispatched or aborted before that, whichever comes first.
-- Why safe to run twice: the first request counts.
local known = redis.call('HMGET', record, 'status', 'abort')
local status = known[1]
if not status then return {'UNKNOWN'} end
if known[2] == '0' and not is_finished(status) then
  redis.call('HSET', record, 'abort', now(), 'abort_by', by, 'abort_reason', reason)
  if rank(status) < rank('DISPATCHED') then
    move(record, log, 'FINISHED:ABORTED', change, reason, log_lines)
    renew_job(jobs, record, log, retention_ms)
  end
end
return {'OK', redis.call('HGETALL', record)}
