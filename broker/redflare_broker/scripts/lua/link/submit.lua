-- The agent hands in a result: the entry is added for the CJ and the task's own entry goes, in one step.
-- KEYS: link, tasks, results, task
-- ARGV: agent instance, agent epoch, task id ('' for the open one), submit id, rc, payload bytes, blob prefix,
--       fields of the entry ...
-- Returns: {SUBMITTED} | {ACCEPTED}, {REJECTED}, {ABORTED}: settled | {DUPLICATE}: another result is in |
--          {RESEND}: its payload was lost, hand it in with a new submit id | {UNKNOWN}: no such task |
--          {OPEN, id}: call again for this task | {FENCED} | {LOST}
-- Why atomic: a result that is reported as submitted is in the stream, and its task in nobody's hands.
-- Why safe to run twice: the same submit id is answered with the task's status.
local link, tasks, results, task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held, open = standing(link, 'agent', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
if ARGV[3] == '' then
  if open == '' then return {'UNKNOWN'} end
  return {'OPEN', open}
end
local known = redis.call('HMGET', task, 'status', 'submit_id', 'entry', 'lost', 'result')
if not known[1] then return {'UNKNOWN'} end
if known[2] == ARGV[4] or known[1] == 'ABORTED' or known[1] == 'REJECTED' then return {known[1]} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {'DUPLICATE'} end
if known[4] == ARGV[4] then return {'RESEND'} end

local entry = redis.call('XADD', results, '*', unpack(ARGV, 8))
remove(tasks, known[3])
remove(results, known[5])
redis.call('HSET', task, 'status', 'SUBMITTED', 'submit_id', ARGV[4], 'rc', ARGV[5], 'result', entry,
  'result_size', ARGV[6], 'result_blob', ARGV[7], 'epoch', ARGV[2], 'agent', ARGV[1], 'submitted', at(entry))
return {'SUBMITTED'}
