-- Keep a controller's state, and drop what it contains: ended tasks, and the results of open ones.
-- KEYS: cell, job, clients, standing, ended, blobs, history, task_prefix (of the tasks of both sets)
-- ARGV: instance, epoch, run, checkpoint_id (new for each), state_prefix (of the state's chunks; '': inline), chunks,
--       retention_ms, settled_ms, fields (of the state) ...
-- Returns: {OK, number, prefix, chunks and run, ... of each payload that no record needs} | {ENDED, reason}: the job is over |
--          {FENCED} | {LOST}
-- Why atomic: a successor must find a state, and exactly what came after it.
-- Why safe to run twice: a checkpoint that was written changes nothing; free payloads are returned until they are disowned.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
if redis.call('HGET', job, 'checkpoint_id') ~= checkpoint_id then
  local before = prefix_of(redis.call('HGET', job, 'state_data:blobs'))
  for _, name in ipairs(redis.call('HKEYS', job)) do
    if string.find(name, '^state') then redis.call('HDEL', job, name) end
  end
  redis.call('HINCRBY', job, 'checkpoint', 1)
  redis.call('HSET', job, 'checkpoint_id', checkpoint_id, unpack(ARGV, fields_from))
  for _, root in ipairs(redis.call('ZRANGE', standing, 0, -1)) do strip(task_prefix .. root, blobs) end
  for _, root in ipairs(redis.call('ZRANGE', ended, 0, -1)) do
    strip(task_prefix .. root, blobs)
    keep(settled_ms, task_prefix .. root)
  end
  redis.call('UNLINK', ended)
  own(blobs, state_prefix, chunks, run, retention_ms)
  if before ~= state_prefix then free(blobs, before) end
end
local number, owned = redis.call('HGET', job, 'checkpoint'), redis.call('HGETALL', blobs)
if #owned == 0 then return {'OK', number} end
local reply = {'OK', number}
for index = 1, #owned, 2 do
  if string.sub(owned[index + 1], -5) == ' free' then
    reply[#reply + 1] = owned[index]
    reply[#reply + 1] = owned[index + 1]
  end
end
return reply
