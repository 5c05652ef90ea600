-- Note which sites the server waits for before the job's controller begins, for people; '' when it waits no longer.
-- KEYS: cell, job
-- ARGV: instance, epoch, run, awaited, retention_ms
-- Returns: {OK} | {ENDED, reason} | {FENCED} | {LOST}
-- Why atomic: a run that was replaced must not write over what its successor waits for.
-- Why safe to run twice: it writes the same again.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
redis.call('HSET', job, 'awaited', awaited)
keep(retention_ms, job)
return {'OK'}
