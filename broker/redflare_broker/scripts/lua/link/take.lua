-- The agent takes the link's open task; only the newest instance can. It is sent right behind the XREAD that waits for the
-- entry, so that reading and taking are one round trip; which task is open is not known before.
-- KEYS: link, prefix of the ledgers (the script adds the open task's id; the hash tag keeps it in the same slot)
-- ARGV: agent instance, agent epoch, task id ('' for whichever is open)
-- Returns: {FETCHED, task id, attempt} | {status, task id} when it is no longer to be had | {NONE}: no such task is open |
--          {FENCED} | {LOST}
-- Why atomic: a task must not be handed to an instance that is being replaced.
-- Why safe to run twice: the same epoch takes again without effect.
local held, open = standing(KEYS[1], 'agent', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
if open == '' or (ARGV[3] ~= '' and ARGV[3] ~= open) then return {'NONE'} end
local task = KEYS[2] .. open
local known = redis.call('HMGET', task, 'status', 'epoch', 'attempt')
if not known[1] then return {'NONE'} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {known[1], open} end

local attempt = tonumber(known[3])
if known[1] == 'NEW' or known[2] ~= ARGV[2] then
  attempt = attempt + 1
  redis.call('HSET', task, 'status', 'FETCHED', 'epoch', ARGV[2], 'agent', ARGV[1], 'attempt', attempt, 'fetched', now())
end
return {'FETCHED', open, attempt}
