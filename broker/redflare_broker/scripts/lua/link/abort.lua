-- Abort a task: the ledger first, then the wake-up; an agent that misses it learns it at the next beat or at submit.
-- KEYS: link, tasks, results, task, abort (channel)
-- ARGV: instance (of the CJ; '' for an operator), epoch, task_id, reason, settled_ms, publish (verb)
-- Returns: {status} after the step: ABORTED, or ACCEPTED, REJECTED when it was settled before | {UNKNOWN} to an operator |
--          {FENCED} | {LOST}
-- Why atomic: a task that is aborted can no longer be accepted, whatever is on its way.
-- Why safe to run twice: a settled task stays as it is.
-- A CJ's abort is written down for an unknown task as well: its assign may still be on the way, and must find it ended.
if instance ~= '' then
  local lease = side_lease(link, 'cj', instance, epoch)
  if lease ~= 'OK' then return {lease} end
end
local status = redis.call('HGET', task, 'status')
if not status and instance == '' then return {'UNKNOWN'} end
if is_settled(status) then return {status} end

finish(link, tasks, results, task, task_id, 'ABORTED', reason, settled_ms)
redis.call(publish, abort, 'abort ' .. task_id)
return {'ABORTED'}
