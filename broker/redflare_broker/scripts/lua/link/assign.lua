-- Put a task on the link; another one that is open is aborted first, for a link has one task at a time.
-- KEYS: link, tasks, results, task, expected_task (ledger of `expected`, or the task's own), abort (channel),
--       notice (channel) [, forgotten (ledger of a task settled long ago, which goes)]
-- ARGV: instance (of the CJ), epoch, task_id, task_name, expected (id of the open task the caller knows of),
--       lost ('' or the id of the results entry whose payload, or whose task's payload, is gone), size (bytes of payload),
--       blob (prefix of its chunks), chunks (their number), retention_ms, settled_ms, publish (verb), fields (of the entry) ...
-- Returns: {status, result entry id or ''}: NEW when it was added, else of the same id, unchanged; ACCEPTED with '' when
--          another task came after it, and its result is gone | {BUSY, open id} | {FENCED} | {LOST}
-- Why atomic: ledger, stream and the link's open task must never disagree.
-- Why safe to run twice: the same task id changes nothing, unless its result is the one that is `lost`; once.
local lease, open, kept, streams, last = side_lease(link, 'cj', instance, epoch)
if lease ~= 'OK' then return {lease} end
local known = redis.call('HMGET', task, 'status', 'result', 'submit_id', 'entry', 'attempt')
if known[1] == 'ACCEPTED' and last and last ~= task_id then return {'ACCEPTED', ''} end
local final = known[1] == 'ABORTED' or known[1] == 'REJECTED'
if known[1] and (final or lost == '' or lost ~= known[2]) then return {known[1], known[2] or ''} end

if open ~= '' and open ~= task_id then
  if open ~= expected then return {'BUSY', open} end
  finish(link, tasks, results, expected_task, open, 'ABORTED', 'replaced by task ' .. task_id, settled_ms)
  redis.call(publish, abort, 'abort ' .. open)
end
if forgotten then redis.call('UNLINK', forgotten) end
remove(tasks, known[4])
remove(results, known[2])
remove(results, kept)
if known[1] then redis.call('HDEL', task, 'result', 'submit_id', 'reason', 'settled', 'rc', 'lent') end
if known[3] then
  redis.call('HSET', task, 'lost', known[3])
  redis.call(publish, notice, 'resend ' .. task_id)
end
if not streams and redis.call('PTTL', results) == -2 then redis.call('XADD', results, 'MAXLEN', 0, '*', 'v', 1) end
local entry = redis.call('XADD', tasks, '*', unpack(ARGV, fields_from))
redis.call('HSET', task, 'status', 'NEW', 'name', task_name, 'entry', entry, 'session', instance, 'size', size,
  'blob', blob, 'chunks', chunks, 'assigned', added(entry), 'attempt', known[5] or 0)
redis.call('HSET', link, 'task', task_id, 'last', task_id, 'kept', '', 'kept_task', '', 'streams', 1)
-- with the first task the link gets its streams, whose lives the heartbeats prolong from then on
if not streams then keep(retention_ms, tasks, results) end
redis.call('PEXPIRE', task, retention_ms)
return {'NEW', ''}
