-- The agent takes a task it has read; only the newest instance can.
-- KEYS: link, task
-- ARGV: agent instance, agent epoch
-- Returns: {FETCHED, attempt, assigned ms} | {status} when it is no longer to be had | {GONE} | {FENCED} | {LOST}
-- Why atomic: a task must not be handed to an instance that is being replaced.
-- Why safe to run twice: the same epoch takes again without effect.
local link, task = KEYS[1], KEYS[2]
local held = standing(link, 'agent', ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
local known = redis.call('HMGET', task, 'status', 'epoch', 'attempt', 'assigned')
if not known[1] then return {'GONE'} end
if known[1] ~= 'NEW' and known[1] ~= 'FETCHED' then return {known[1]} end

local attempt = tonumber(known[3])
if known[1] == 'NEW' or known[2] ~= ARGV[2] then
  attempt = attempt + 1
  redis.call('HSET', task, 'status', 'FETCHED', 'epoch', ARGV[2], 'agent', ARGV[1], 'attempt', attempt, 'fetched', now())
end
return {'FETCHED', attempt, known[4]}
