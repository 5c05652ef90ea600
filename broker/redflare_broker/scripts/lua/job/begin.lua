-- Begin a server's run of the job: anew, or with the state that the run before it has left.
-- KEYS: cell, job, clients, standing, ended, blobs, history, task_prefix (of the tasks of both sets), client_prefix
-- ARGV: instance, epoch, run, resume (1 or 0), retention_ms
-- Returns: {OK, NEW or RESUMED, run before this one or ''} | {ENDED, reason}: this very run is over | {FENCED} | {LOST}
-- Why atomic: two servers must not go on with one state.
-- Why safe to run twice: a run that was begun answers as it did then.
local lease = server_lease(cell, job, instance, epoch)
if lease ~= 'OK' then return {lease} end
local known = redis.call('HMGET', job, 'run', 'status', 'reason', 'began', 'previous')
if known[1] == run then
  if known[2] ~= 'RUNNING' then return {'ENDED', known[3]} end
  redis.call('HSET', job, 'instance', instance, 'epoch', epoch)
  return {'OK', known[4], known[5]}
end

local resumed = known[2] == 'RUNNING' and resume == '1'
if known[1] and not resumed then
  for _, set in ipairs({standing, ended}) do
    for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('UNLINK', task_prefix .. root) end
  end
  redis.call('UNLINK', job, standing, ended, history)
  -- those of a job that was over have all left
  if known[2] ~= 'RUNNING' then
    for _, name in ipairs(names_in(clients)) do redis.call('UNLINK', client_prefix .. name) end
    redis.call('UNLINK', clients)
  end
end
if not resumed then redis.call('HSET', job, 'started', now(), 'checkpoint', 0) end
local began = resumed and 'RESUMED' or 'NEW'
redis.call('HSET', job, 'run', run, 'instance', instance, 'epoch', epoch, 'status', 'RUNNING', 'reason', '',
  'ended', 0, 'awaited', '', 'began', began, 'begun', now(), 'previous', known[1] or '')
keep(retention_ms, job, clients, standing, ended, blobs, history)
for _, name in ipairs(names_in(clients)) do keep(retention_ms, client_prefix .. name) end
return {'OK', began, known[1] or ''}
