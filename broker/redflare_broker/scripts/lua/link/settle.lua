-- Accept a result, or reject it; the agent that waits for the decision is woken. Sent right behind the XREAD that waits for
-- the entry, it accepts a small result in the round trip that brings it.
-- KEYS: link, tasks, results, task, notice (channel), dead
-- ARGV: instance (of the CJ), epoch, task_id, status (ACCEPTED or REJECTED), reason, settled_ms, publish (verb),
--       retention_ms, dead_entries (at most), dead_value_bytes (at most), inline (1: only a result without chunks),
--       lent (1: the result's chunks may become somebody else's)
-- Returns: {status} after the step | {UNKNOWN} | {FENCED} | {LOST}
-- Why atomic: the decision and the end of the task are one thing; abort and accept exclude each other.
-- Why safe to run twice: a task that is settled answers with its status; only the CJ that accepted a result, and then
-- could not read it, takes that back.
-- An accepted result's entry is kept until the next task, so a CJ that dies before it used the result finds it again; a
-- rejected one is moved to the dead-letter stream.
local lease, open, kept = side_lease(link, 'cj', instance, epoch)
if lease ~= 'OK' then return {lease} end
local known = redis.call('HMGET', task, 'status', 'result', 'result_blob')
if not known[1] then return {'UNKNOWN'} end
if known[1] == 'ACCEPTED' and status == 'REJECTED' and kept == known[2] then
  redis.call('HSET', link, 'kept', '', 'kept_task', '')
elseif known[1] ~= 'SUBMITTED' or (inline == '1' and known[3] ~= '') then
  return {known[1]}
end

if status == 'ACCEPTED' then
  redis.call('HSET', link, 'kept', known[2], 'kept_task', task_id, 'task', '')
  redis.call('HSET', task, 'status', 'ACCEPTED', 'settled', now())
  if lent == '1' then redis.call('HSET', task, 'lent', 1) end
  redis.call('PEXPIRE', task, settled_ms)
else
  bury(results, known[2], dead, reason, dead_entries, dead_value_bytes, retention_ms)
  finish(link, tasks, results, task, task_id, status, reason, settled_ms)
end
redis.call(publish, notice, string.lower(status) .. ' ' .. task_id)
return {status}
