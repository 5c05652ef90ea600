-- Move a job to a later status, if it is where the caller thinks.
-- KEYS: jobs, record, log
-- ARGV: step (new for each), status, change (JSON: status, reason, by), reason, retention_ms, log_lines (at most),
--       submission (or ''), expected (statuses) ...
-- Returns: {OK, the record} | {REFUSED, status}: it is elsewhere, or further, or its abort was asked for |
--          {UNKNOWN}: there is none of this submission
-- Why atomic: of two who want to move a job, one does; and an abort that was asked for is never overtaken.
-- Why safe to run twice: a step that was taken answers OK.
local known = redis.call('HMGET', record, 'status', 'step', 'abort')
local current = known[1]
if not current or not is_of(record, submission) then return {'UNKNOWN'} end
if known[2] ~= step then
  local is_expected = false
  for index = expected_from, #ARGV do is_expected = is_expected or ARGV[index] == current end
  if not is_expected or rank(status) <= rank(current) then return {'REFUSED', current} end
  if known[3] ~= '0' and not is_finished(status) then return {'REFUSED', current} end
  redis.call('HSET', record, 'step', step)
  move(record, log, status, change, reason, log_lines)
  if is_finished(status) then renew_job(jobs, record, log, retention_ms) end
end
return {'OK', redis.call('HGETALL', record)}
