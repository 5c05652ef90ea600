-- Give back a task that the agent cannot read, or that too many have died with: it ends REJECTED, or goes back to the CJ
-- when only its payload is gone. An entry that cannot be read becomes a dead letter.
-- KEYS: link, tasks, results, task, dead
-- ARGV: instance (of the agent), epoch, task_id, rc, reason, settled_ms, retention_ms, dead_entries (at most),
--       dead_value_bytes (at most)
-- Returns: {REJECTED} | {NEW} when the CJ is asked to send again (rc BLOB_MISSING) | {status} | {GONE} | {FENCED} | {LOST}
-- Why atomic: the CJ must be woken exactly when the task ends.
-- Why safe to run twice: a task that is not FETCHED by this epoch is left as it is.
local lease = side_lease(link, 'agent', instance, epoch)
if lease ~= 'OK' then return {lease} end
local known = redis.call('HMGET', task, 'status', 'epoch', 'entry', 'name', 'result')
if not known[1] then return {'GONE'} end
if known[1] ~= 'FETCHED' or known[2] ~= epoch then return {known[1]} end

remove(results, known[5])
local entry = redis.call('XADD', results, '*', 'v', 1, 'topic', 'get_task', 'task_id', task_id, 'task_name', known[4],
  'rc', rc, 'epoch', epoch, 'sender', instance, 'reason', reason)
local again = rc == 'BLOB_MISSING'
if again then
  remove(tasks, known[3])
  redis.call('HSET', task, 'status', 'NEW', 'reason', reason)
else
  if rc ~= 'EXECUTION_EXCEPTION' then bury(tasks, known[3], dead, reason, dead_entries, dead_value_bytes, retention_ms) end
  finish(link, tasks, results, task, task_id, 'REJECTED', reason, settled_ms)
  redis.call('HSET', link, 'kept', entry, 'kept_task', task_id)
end
redis.call('HSET', task, 'rc', rc, 'result', entry)
return {again and 'NEW' or 'REJECTED'}
