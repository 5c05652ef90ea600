-- Renew a client's heartbeat and its place in the job, and reply with what the client must know of the server.
-- KEYS: client, heartbeat (the client's)
-- ARGV: job, clients, server_heartbeat (of its cell), name, instance, epoch, beat (JSON), beat_ttl_ms, retention_ms,
--   may_keep (1: the set of clients, too)
-- Returns: {OK, run or '', server's beat or '', its PTTL} | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: an instance that was replaced, or has left, must not look alive.
-- Why safe to run twice: it only renews.
local known = redis.call('HMGET', job, 'run', 'status', 'reason')
if known[2] and known[2] ~= 'RUNNING' then return {'ENDED', known[3]} end
local text = redis.call('GET', client)
if not text or epoch == '0' then return {'LOST'} end
local member = cjson.decode(text)
if member.instance ~= instance or member.epoch ~= tonumber(epoch) then
  if member.epoch >= tonumber(epoch) then return {'FENCED'} end
  return {'LOST'}
end

if member.left == 0 then
  redis.call('SET', heartbeat, beat, 'PX', beat_ttl_ms)
  keep(retention_ms, client)
  -- Redis may have lost the set
  redis.call('SADD', clients, name)
  lengthen(may_keep, retention_ms, clients)
end
return {'OK', known[1] or '', redis.call('GET', server_heartbeat) or '', redis.call('PTTL', server_heartbeat)}
