-- Take the link's open task; only the newest instance of the agent can. It is sent right behind the XREAD that waits for
-- the entry, so that reading and taking are one round trip; which task is open is not known before.
-- KEYS: link, task_prefix (of the ledgers; the script adds the open task's id, and the hash tag keeps it in the same slot)
-- ARGV: instance (of the agent), epoch, task_id ('' for whichever is open)
-- Returns: {FETCHED, task id, attempt} | {status, task id} when it is no longer to be had | {NONE}: no such task is open |
--          {FENCED} | {LOST}
-- Why atomic: a task must not be handed to an instance that is being replaced.
-- Why safe to run twice: the same epoch takes again without effect.
local lease, open = side_lease(link, 'agent', instance, epoch)
if lease ~= 'OK' then return {lease} end
if open == '' or (task_id ~= '' and task_id ~= open) then return {'NONE'} end
local task = task_prefix .. open
local known = redis.call('HMGET', task, 'status', 'epoch', 'attempt')
if not known[1] then return {'NONE'} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {known[1], open} end

local attempt = tonumber(known[3])
if known[1] == 'NEW' or known[2] ~= epoch then
  attempt = attempt + 1
  redis.call('HSET', task, 'status', 'FETCHED', 'epoch', epoch, 'agent', instance, 'attempt', attempt, 'fetched', now())
end
return {'FETCHED', open, attempt}
