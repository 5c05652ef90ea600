-- The server calls the roll, and all that belongs to the job lives on.
-- KEYS: cell, job, clients, standing, ended, blobs, prefix of the ledgers (the tasks of both sets), prefix of heartbeats
-- ARGV: instance, epoch, run, retention ms
-- Returns: {OK, name, record, PTTL of its heartbeat or -2, ... for each client} | {ENDED, reason} | {FENCED} | {LOST}
-- Why atomic: only the server that holds the job may keep it alive.
-- Why safe to run twice: it only renews.
local held, reason = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held, reason} end
keep(ARGV[4], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
for _, set in ipairs({KEYS[4], KEYS[5]}) do
  for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do keep(ARGV[4], KEYS[7] .. root) end
end
local said, clients = {'OK'}, redis.call('HGETALL', KEYS[3])
if #clients == 0 then return {'OK'} end
for index = 1, #clients, 2 do
  said[#said + 1] = clients[index]
  said[#said + 1] = clients[index + 1]
  said[#said + 1] = redis.call('PTTL', KEYS[8] .. clients[index])
end
return said
