-- A controller's state is kept, and what it contains goes: ended tasks, and the results of those that stand.
-- KEYS: cell, job, clients, standing, ended, blobs, prefix of the ledgers (the tasks of both sets)
-- ARGV: instance, epoch, run, id (new for each checkpoint), prefix of the state's chunks ('': inline), chunks, retention ms,
--       settled ms, fields of the state ...
-- Returns: {OK, number, prefix, chunks and run, ... of each payload that no record needs} | {ENDED, reason}: the job is over |
--          {FENCED} | {LOST}
-- Why atomic: a successor must find a state, and exactly what came after it.
-- Why safe to run twice: a checkpoint that was written changes nothing; the payloads are told until they are disowned.
local job, blobs = KEYS[2], KEYS[6]
local held, reason = serving(KEYS[1], job, ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held, reason} end
if redis.call('HGET', job, 'checkpoint_id') ~= ARGV[4] then
  local before = prefix_of(redis.call('HGET', job, 'state_data:blobs'))
  for _, name in ipairs(redis.call('HKEYS', job)) do
    if string.find(name, '^state') then redis.call('HDEL', job, name) end
  end
  redis.call('HINCRBY', job, 'checkpoint', 1)
  redis.call('HSET', job, 'checkpoint_id', ARGV[4], unpack(ARGV, 9))
  for _, root in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do strip(KEYS[7] .. root, blobs) end
  for _, root in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
    strip(KEYS[7] .. root, blobs)
    keep(ARGV[8], KEYS[7] .. root)
  end
  redis.call('UNLINK', KEYS[5])
  own(blobs, ARGV[5], ARGV[6], ARGV[3], ARGV[7])
  if before ~= ARGV[5] then free(blobs, before) end
end
local number, owned = redis.call('HGET', job, 'checkpoint'), redis.call('HGETALL', blobs)
if #owned == 0 then return {'OK', number} end
local said = {'OK', number}
for index = 1, #owned, 2 do
  if string.sub(owned[index + 1], -5) == ' free' then
    said[#said + 1] = owned[index]
    said[#said + 1] = owned[index + 1]
  end
end
return said
