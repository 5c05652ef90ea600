-- The agent cannot read a task it took: the task ends REJECTED, or goes back to the CJ when only its payload is gone.
-- KEYS: link, tasks, results, task, dead
-- ARGV: agent instance, agent epoch, task id, rc, reason, settled ms, retention ms, longest dead stream, longest value
-- Returns: {REJECTED} | {NEW} when the CJ is asked to send again (rc BLOB_MISSING) | {status} | {GONE} | {FENCED} | {LOST}
-- Why atomic: the CJ must be woken exactly when the task ends.
-- Why safe to run twice: a task that is not FETCHED by this epoch is left as it is.
local link, tasks, results, task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held = standing(link, 'agent', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
local known = redis.call('HMGET', task, 'status', 'epoch', 'entry', 'name', 'result')
if not known[1] then return {'GONE'} end
if known[1] ~= 'FETCHED' or known[2] ~= ARGV[2] then return {known[1]} end

remove(results, known[5])
local entry = redis.call('XADD', results, '*', 'v', 1, 'topic', 'get_task', 'task_id', ARGV[3], 'task_name', known[4],
  'rc', ARGV[4], 'epoch', ARGV[2], 'sender', ARGV[1], 'reason', ARGV[5])
local again = ARGV[4] == 'BLOB_MISSING'
if again then
  remove(tasks, known[3])
  redis.call('HSET', task, 'status', 'NEW', 'reason', ARGV[5])
else
  bury(tasks, known[3], KEYS[5], ARGV[5], ARGV[8], ARGV[9], ARGV[7])
  finish(link, tasks, results, task, ARGV[3], 'REJECTED', ARGV[5], ARGV[6])
  redis.call('HSET', link, 'kept', entry, 'kept_task', ARGV[3])
end
redis.call('HSET', task, 'rc', ARGV[4], 'result', entry)
return {again and 'NEW' or 'REJECTED'}
