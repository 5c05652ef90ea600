-- One side leaves for good: its heartbeat goes and the other side is woken. An open task is left to a successor.
-- KEYS: link, tasks, results, own heartbeat, notice channel
-- ARGV: role, instance, epoch, settled ms, retention ms, publish verb
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: the other side must not see a link that is half closed.
-- Why safe to run twice: what is closed stays as it is.
local link, results = KEYS[1], KEYS[3]
local held = standing(link, ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held} end
if redis.call('HGET', link, ARGV[1] .. '_closed') == '1' then return {'OK'} end
redis.call('HSET', link, ARGV[1] .. '_closed', 1)
redis.call('DEL', KEYS[4])
local linked = redis.call('HMGET', link, 'hello', 'kept', 'agent_closed', 'cj_closed', 'task')
if ARGV[1] == 'agent' then
  remove(results, linked[1])
  local entry = redis.call('XADD', results, '*', 'v', 1, 'topic', 'bye', 'sender', ARGV[2], 'epoch', ARGV[3])
  redis.call('HSET', link, 'hello', entry)
else
  remove(results, linked[2])
  redis.call('HDEL', link, 'kept', 'kept_task')
end
local over = linked[4] == '1' and linked[3] ~= '0' and (linked[5] or '') == ''
keep(over and ARGV[4] or ARGV[5], link, KEYS[2], results)
redis.call(ARGV[6], KEYS[5], 'bye ' .. ARGV[1])
return {'OK'}
