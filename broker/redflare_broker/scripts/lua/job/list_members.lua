-- Read the member list, and let all that belongs to the job live on.
-- KEYS: cell, job, clients, standing, ended, blobs, history, task_prefix (of the tasks of both sets), client_prefix,
--   heartbeat_prefix
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
local reply, names = {'OK'}, names_in(clients)
if #names == 0 then return {'OK'} end
for _, name in ipairs(names) do
  -- each client writes its own record: what one makes of that must not stop the others
  local record = redis.pcall('GET', client_prefix .. name)
  if type(record) == 'string' then
    keep(retention_ms, client_prefix .. name)
    reply[#reply + 1] = name
    reply[#reply + 1] = record
    reply[#reply + 1] = redis.call('PTTL', heartbeat_prefix .. name)
  end
end
return reply
