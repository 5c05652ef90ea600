-- A task is final. Its data go from the ledger; results stay until a checkpoint, if they are kept at all.
-- KEYS: cell, job, task, standing, ended
-- ARGV: instance, epoch, run, root id, status, ended (ms of the server's clock), resume (1 or 0), retention ms, settled ms
-- Returns: {OK} | {GONE}: it has no ledger | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: a task stands or has ended.
-- Why safe to run twice: the first status counts.
local task = KEYS[3]
local held, reason = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held, reason} end
local known = redis.call('HMGET', task, 'status', 'order')
if not known[1] then return {'GONE'} end
if known[1] ~= 'STANDING' then return {'OK'} end

for _, name in ipairs(redis.call('HKEYS', task)) do
  if string.find(name, '^data') then redis.call('HDEL', task, name) end
end
redis.call('HSET', task, 'status', ARGV[5], 'ended', ARGV[6])
redis.call('ZREM', KEYS[4], ARGV[4])
if ARGV[7] == '1' then
  redis.call('ZADD', KEYS[5], known[2], ARGV[4])
  keep(ARGV[8], KEYS[5])
else
  keep(ARGV[9], task)
end
return {'OK'}
