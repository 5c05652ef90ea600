-- Read the member list, and let all that belongs to the job live on.
-- KEYS: cell, job, clients, standing, ended, blobs, history, task_prefix (of the tasks of both sets), heartbeat_prefix
-- ARGV: instance, epoch, run, retention_ms
-- Returns: {OK, name, record, PTTL of its heartbeat or -2, ... for each client} | {ENDED, reason} | {FENCED} | {LOST}
-- Why atomic: only the server that holds the job may keep it alive.
-- Why safe to run twice: it only renews.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
keep(retention_ms, job, clients, standing, ended, blobs, history)
for _, set in ipairs({standing, ended}) do
  for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do keep(retention_ms, task_prefix .. root) end
end
local reply, members = {'OK'}, redis.call('HGETALL', clients)
if #members == 0 then return {'OK'} end
for index = 1, #members, 2 do
  reply[#reply + 1] = members[index]
  reply[#reply + 1] = members[index + 1]
  reply[#reply + 1] = redis.call('PTTL', heartbeat_prefix .. members[index])
end
return reply
