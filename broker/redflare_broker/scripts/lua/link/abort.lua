-- Abort a task: the ledger first, then the wake-up; who misses that learns it at the next beat or at submit.
-- KEYS: link, tasks, results, task, abort channel
-- ARGV: cj instance ('' for an operator), cj epoch, task id, reason, settled ms, publish verb
-- Returns: {status} after the step: ABORTED, or ACCEPTED, REJECTED when it was settled before | {UNKNOWN} to an operator |
--          {FENCED} | {LOST}
-- Why atomic: a task that is aborted can no longer be accepted, whatever is on its way.
-- Why safe to run twice: a settled task stays as it is.
-- A CJ's abort is written down for an unknown task as well: its assign may still be on the way, and must find it ended.
if ARGV[1] ~= '' then
  local held = standing(KEYS[1], 'cj', ARGV[1], ARGV[2])
  if held ~= 'OK' then return {held} end
end
local status = redis.call('HGET', KEYS[4], 'status')
if not status and ARGV[1] == '' then return {'UNKNOWN'} end
if settled(status) then return {status} end

finish(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[3], 'ABORTED', ARGV[4], ARGV[5])
redis.call(ARGV[6], KEYS[5], 'abort ' .. ARGV[3])
return {'ABORTED'}
