-- A server begins its run of the job: anew, or with the state that the run before it has left.
-- KEYS: cell, job, clients, standing, ended, blobs, prefix of the ledgers (the tasks of both sets)
-- ARGV: instance, epoch, run, resume (1 or 0), retention ms
-- Returns: {OK, NEW or RESUMED, run before this one or ''} | {ENDED, reason}: this very run is over | {FENCED} | {LOST}
-- Why atomic: two servers must not go on with one state.
-- Why safe to run twice: a run that was begun answers as it did then.
local cell, job = KEYS[1], KEYS[2]
local held = serving(cell, job, ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
local known = redis.call('HMGET', job, 'run', 'status', 'reason', 'began', 'previous')
if known[1] == ARGV[3] then
  if known[2] ~= 'RUNNING' then return {'ENDED', known[3]} end
  redis.call('HSET', job, 'instance', ARGV[1], 'epoch', ARGV[2])
  return {'OK', known[4], known[5]}
end

local resumed = known[2] == 'RUNNING' and ARGV[4] == '1'
if known[1] and not resumed then
  for _, set in ipairs({KEYS[4], KEYS[5]}) do
    for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('UNLINK', KEYS[7] .. root) end
  end
  redis.call('UNLINK', job, KEYS[4], KEYS[5])
  -- those of a job that was over have all left
  if known[2] ~= 'RUNNING' then redis.call('UNLINK', KEYS[3]) end
end
if not resumed then redis.call('HSET', job, 'started', now(), 'checkpoint', 0) end
local began = resumed and 'RESUMED' or 'NEW'
redis.call('HSET', job, 'run', ARGV[3], 'instance', ARGV[1], 'epoch', ARGV[2], 'status', 'RUNNING', 'reason', '',
  'ended', 0, 'began', began, 'begun', now(), 'previous', known[1] or '')
keep(ARGV[5], job, KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return {'OK', began, known[1] or ''}
