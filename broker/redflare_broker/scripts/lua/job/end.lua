-- The job is over: clients hear it with their next beat, and all its keys expire after a while.
-- KEYS: cell, job, clients, standing, ended, blobs, prefix of the ledgers (the tasks of both sets)
-- ARGV: instance, epoch, run, status, reason, settled ms
-- Returns: {OK}, also when it was over before | {FENCED} | {LOST}
-- Why atomic: nothing is written to a job that is over, so nothing is left without an end.
-- Why safe to run twice: the first end counts.
local held = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held == 'ENDED' then return {'OK'} end
if held ~= 'OK' then return {held} end
redis.call('HSET', KEYS[2], 'status', ARGV[4], 'reason', ARGV[5], 'ended', now())
for _, set in ipairs({KEYS[4], KEYS[5]}) do
  for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do keep(ARGV[6], KEYS[7] .. root) end
end
keep(ARGV[6], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return {'OK'}
