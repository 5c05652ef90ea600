-- The CJ takes the result, or rejects it; the agent that waits for it is woken. Sent right behind the XREAD that waits for
-- the entry, it accepts a small result in the round trip that brings it.
-- KEYS: link, tasks, results, task, notice channel, dead
-- ARGV: cj instance, cj epoch, task id, verdict (ACCEPTED or REJECTED), reason, settled ms, publish verb, retention ms,
--       longest dead stream, longest value, inline (1: only a result whose payload stands in its entry)
-- Returns: {status} after the step | {UNKNOWN} | {FENCED} | {LOST}
-- Why atomic: the verdict and the end of the task are one thing; abort and accept exclude each other.
-- Why safe to run twice: a task that is settled answers with its status; only the CJ that accepted a result, and then
-- could not read it, takes that back.
-- An accepted result's entry is kept until the next task, so a CJ that dies before it used the result finds it again; a
-- rejected one is moved to the dead-letter stream.
local link, tasks, results, task = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held, open, kept = standing(link, 'cj', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
local known = redis.call('HMGET', task, 'status', 'result', 'result_blob')
if not known[1] then return {'UNKNOWN'} end
if known[1] == 'ACCEPTED' and ARGV[4] == 'REJECTED' and kept == known[2] then
  redis.call('HSET', link, 'kept', '', 'kept_task', '')
elseif known[1] ~= 'SUBMITTED' or (ARGV[11] == '1' and known[3] ~= '') then
  return {known[1]}
end

if ARGV[4] == 'ACCEPTED' then
  redis.call('HSET', link, 'kept', known[2], 'kept_task', ARGV[3], 'task', '')
  redis.call('HSET', task, 'status', 'ACCEPTED', 'settled', now())
  redis.call('PEXPIRE', task, ARGV[6])
else
  bury(results, known[2], KEYS[6], ARGV[5], ARGV[9], ARGV[10], ARGV[8])
  finish(link, tasks, results, task, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
end
redis.call(ARGV[7], KEYS[5], string.lower(ARGV[4]) .. ' ' .. ARGV[3])
return {ARGV[4]}
