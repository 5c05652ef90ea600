-- One side leaves for good: its heartbeat goes and the other side is woken. An open task is left to a successor.
-- KEYS: link, tasks, results, own heartbeat, notice channel
-- ARGV: role, instance, epoch, settled ms, retention ms, publish verb
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: the other side must not see a link that is half closed.
-- Why safe to run twice: what is closed stays as it is.
local link, results = KEYS[1], KEYS[3]
local held, open, kept = standing(link, ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held} end
if redis.call('HGET', link, ARGV[1] .. '_closed') ~= '0' then return {'OK'} end
redis.call('HSET', link, ARGV[1] .. '_closed', now())
redis.call('DEL', KEYS[4])
if ARGV[1] == 'cj' then
  remove(results, kept)
  redis.call('HSET', link, 'kept', '', 'kept_task', '')
end
local closed = redis.call('HMGET', link, 'agent_closed', 'cj_closed')
local over = closed[2] and closed[2] ~= '0' and closed[1] ~= '0' and open == ''
keep(over and ARGV[4] or ARGV[5], link, KEYS[2], results)
redis.call(ARGV[6], KEYS[5], 'bye ' .. ARGV[1])
return {'OK'}
