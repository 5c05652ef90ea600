-- The CJ puts a task on the link; another one that is open is aborted first, for a link has one task at a time.
-- KEYS: link, tasks, results, task, ledger of the open task the caller expects (or the task's own), abort channel,
--       notice channel [, ledger of a task settled long ago, which goes]
-- ARGV: cj instance, cj epoch, task id, name, expected open id, lost ('' or the id of the results entry that says, or
--       shows, that a payload is gone), payload bytes, blob prefix, retention ms, settled ms, publish verb,
--       fields of the entry ...
-- Returns: {status, result entry id or ''}: NEW when it was added, else of the same id, unchanged |
--          {BUSY, open id} | {FENCED} | {LOST}
-- Why atomic: ledger, stream and the link's open task must never disagree.
-- Why safe to run twice: the same task id changes nothing, unless its result is the one that is `lost`; once.
local link, tasks, results, task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held, open, kept, streams = standing(link, 'cj', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
local known = redis.call('HMGET', task, 'status', 'result', 'submit_id', 'entry', 'attempt')
local final = known[1] == 'ABORTED' or known[1] == 'REJECTED'
if known[1] and (final or ARGV[6] == '' or ARGV[6] ~= known[2]) then return {known[1], known[2] or ''} end

if open ~= '' and open ~= ARGV[3] then
  if open ~= ARGV[5] then return {'BUSY', open} end
  finish(link, tasks, results, KEYS[5], open, 'ABORTED', 'replaced by task ' .. ARGV[3], ARGV[10])
  redis.call(ARGV[11], KEYS[6], 'abort ' .. open)
end
if KEYS[8] then redis.call('UNLINK', KEYS[8]) end
remove(tasks, known[4])
remove(results, known[2])
remove(results, kept)
if known[1] then redis.call('HDEL', task, 'result', 'submit_id', 'reason', 'settled', 'rc') end
if known[3] then
  redis.call('HSET', task, 'lost', known[3])
  redis.call(ARGV[11], KEYS[7], 'resend ' .. ARGV[3])
end
if not streams and redis.call('PTTL', results) == -2 then redis.call('XADD', results, 'MAXLEN', 0, '*', 'v', 1) end
local entry = redis.call('XADD', tasks, '*', unpack(ARGV, 12))
redis.call('HSET', task, 'status', 'NEW', 'name', ARGV[4], 'entry', entry, 'session', ARGV[1], 'size', ARGV[7],
  'blob', ARGV[8], 'assigned', at(entry), 'attempt', known[5] or 0)
redis.call('HSET', link, 'task', ARGV[3], 'kept', '', 'kept_task', '', 'streams', 1)
-- with the first task the link gets its streams, whose lives the heartbeats prolong from then on
if not streams then keep(ARGV[9], tasks, results) end
redis.call('PEXPIRE', task, ARGV[9])
return {'NEW', ''}
