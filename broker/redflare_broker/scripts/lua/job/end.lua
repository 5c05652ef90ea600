-- End the job: clients hear it with their next beat, and all its keys expire after a while.
-- KEYS: cell, job, clients, standing, ended, blobs, history, task_prefix (of the tasks of both sets), client_prefix
-- ARGV: instance, epoch, run, status, reason, settled_ms
-- Returns: {OK}, also when it was over before | {FENCED} | {LOST}
-- Why atomic: nothing is written to a job that is over, so no key is left without a TTL.
-- Why safe to run twice: the first end counts.
local lease = server_lease(cell, job, instance, epoch, run)
if lease == 'ENDED' then return {'OK'} end
if lease ~= 'OK' then return {lease} end
redis.call('HSET', job, 'status', status, 'reason', reason, 'ended', now())
for _, set in ipairs({standing, ended}) do
  for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do keep(settled_ms, task_prefix .. root) end
end
for _, name in ipairs(names_in(clients)) do keep(settled_ms, client_prefix .. name) end
keep(settled_ms, job, clients, standing, ended, blobs, history)
return {'OK'}
