-- Renew a client's heartbeat and the member list, and reply with what the client must know of the server.
-- KEYS: job, clients, heartbeat (the client's), server_heartbeat (of its cell)
-- ARGV: name, instance, epoch, beat (JSON), beat_ttl_ms, retention_ms
-- Returns: {OK, run or '', server's beat or '', its PTTL} | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: an instance that was replaced, or has left, must not look alive.
-- Why safe to run twice: it only renews.
local known = redis.call('HMGET', job, 'run', 'status', 'reason')
if known[2] and known[2] ~= 'RUNNING' then return {'ENDED', known[3]} end
local text = redis.call('HGET', clients, name)
if not text or epoch == '0' then return {'LOST'} end
local member = cjson.decode(text)
if member.instance ~= instance or member.epoch ~= tonumber(epoch) then
  if member.epoch >= tonumber(epoch) then return {'FENCED'} end
  return {'LOST'}
end

if member.left == 0 then
  redis.call('SET', heartbeat, beat, 'PX', beat_ttl_ms)
  keep(retention_ms, clients)
end
return {'OK', known[1] or '', redis.call('GET', server_heartbeat) or '', redis.call('PTTL', server_heartbeat)}
