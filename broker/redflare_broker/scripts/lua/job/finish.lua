-- End a task. Its data go from the record; results stay until a checkpoint, if they are kept at all.
-- KEYS: cell, job, task, standing, ended
-- ARGV: instance, epoch, run, root_id, status, ended_ms (by the server's clock), resume (1 or 0), retention_ms, settled_ms
-- Returns: {OK} | {GONE}: it has no record | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: a task is open or has ended.
-- Why safe to run twice: the first status counts.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
local known = redis.call('HMGET', task, 'status', 'order')
if not known[1] then return {'GONE'} end
if known[1] ~= 'STANDING' then return {'OK'} end

for _, name in ipairs(redis.call('HKEYS', task)) do
  if string.find(name, '^data') then redis.call('HDEL', task, name) end
end
redis.call('HSET', task, 'status', status, 'ended', ended_ms)
redis.call('ZREM', standing, root_id)
if resume == '1' then
  redis.call('ZADD', ended, known[2], root_id)
  keep(retention_ms, ended)
else
  keep(settled_ms, task)
end
return {'OK'}
