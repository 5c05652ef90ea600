-- Close one side for good: its heartbeat goes and the other side is woken. An open task is left to a successor.
-- KEYS: link, tasks, results, heartbeat (the caller's), notice (channel)
-- ARGV: role, instance, epoch, failed (1: the caller ends by a fault, and its task counts as one it died with), settled_ms,
--       retention_ms, publish (verb)
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: the other side must not see a link that is half closed.
-- Why safe to run twice: what is closed stays as it is.
local lease, open, kept = side_lease(link, role, instance, epoch)
if lease ~= 'OK' then return {lease} end
if redis.call('HGET', link, role .. '_closed') ~= '0' then return {'OK'} end
redis.call('HSET', link, role .. '_closed', now())
redis.call('DEL', heartbeat)
if role == 'cj' then
  remove(results, kept)
  redis.call('HSET', link, 'kept', '', 'kept_task', '')
elseif failed == '0' then
  redis.call('HSET', link, 'agent_left', epoch)
end
local closed = redis.call('HMGET', link, 'agent_closed', 'cj_closed')
local over = closed[2] and closed[2] ~= '0' and closed[1] ~= '0' and open == ''
keep(over and settled_ms or retention_ms, link, tasks, results)
redis.call(publish, notice, 'bye ' .. role)
return {'OK'}
