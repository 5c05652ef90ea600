-- Hand in a result: the entry is added for the CJ and the task's own entry goes, in one step.
-- KEYS: link, tasks, results, task
-- ARGV: instance (of the agent), epoch, task_id ('' for the open one), submit_id, rc, size (bytes of payload),
--       blob (prefix of its chunks), chunks (their number), fields (of the entry) ...
-- Returns: {SUBMITTED} | {ACCEPTED}, {REJECTED}, {ABORTED}: settled | {DUPLICATE}: another result is in |
--          {RESEND}: its payload was lost, hand it in with a new submit id | {UNKNOWN}: no such task |
--          {OPEN, id}: call again for this task | {FENCED} | {LOST}
-- Why atomic: a result that is reported as submitted is in the stream, and its task in nobody's hands.
-- Why safe to run twice: the same submit id is answered with the task's status.
local lease, open = side_lease(link, 'agent', instance, epoch)
if lease ~= 'OK' then return {lease} end
if task_id == '' then
  if open == '' then return {'UNKNOWN'} end
  return {'OPEN', open}
end
local known = redis.call('HMGET', task, 'status', 'submit_id', 'entry', 'lost', 'result')
if not known[1] then return {'UNKNOWN'} end
if known[2] == submit_id or known[1] == 'ABORTED' or known[1] == 'REJECTED' then return {known[1]} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {'DUPLICATE'} end
if known[4] == submit_id then return {'RESEND'} end

local entry = redis.call('XADD', results, '*', unpack(ARGV, fields_from))
remove(tasks, known[3])
remove(results, known[5])
redis.call('HSET', task, 'status', 'SUBMITTED', 'submit_id', submit_id, 'rc', rc, 'result', entry, 'result_size', size,
  'result_blob', blob, 'result_chunks', chunks, 'epoch', epoch, 'agent', instance, 'submitted', added(entry))
return {'SUBMITTED'}
