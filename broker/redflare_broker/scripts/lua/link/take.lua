-- Take the link's open task, which the agent has read; only the newest instance of the agent can.
-- KEYS: link, task
-- ARGV: instance (of the agent), epoch, task_id
-- Returns: {FETCHED, attempt, died: how many agents have died with it} | {status} when it is no longer to be had |
--          {NONE}: it is not open | {FENCED} | {LOST}
-- Why atomic: a task must not be handed to an instance that is being replaced.
-- Why safe to run twice: the same epoch takes again without effect.
local lease, open = side_lease(link, 'agent', instance, epoch)
if lease ~= 'OK' then return {lease} end
if open ~= task_id then return {'NONE'} end
local known = redis.call('HMGET', task, 'status', 'epoch', 'attempt', 'died')
if not known[1] then return {'NONE'} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {known[1]} end

local attempt, died = tonumber(known[3]), tonumber(known[4] or 0)
-- the agent that had it is not here any more, and has not said in order that it leaves
if known[1] == 'FETCHED' and known[2] ~= epoch and redis.call('HGET', link, 'agent_left') ~= known[2] then
  died = died + 1
  redis.call('HSET', task, 'died', died)
end
if known[1] == 'NEW' or known[2] ~= epoch then
  attempt = attempt + 1
  redis.call('HSET', task, 'status', 'FETCHED', 'epoch', epoch, 'agent', instance, 'attempt', attempt, 'fetched', now())
end
return {'FETCHED', attempt, died}
