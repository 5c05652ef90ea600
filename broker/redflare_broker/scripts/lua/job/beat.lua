-- A client's heartbeat: it is alive, the roll lives on, and the answer says what the client must know of the server.
-- KEYS: job, clients, own heartbeat, heartbeat of the server's cell
-- ARGV: name, instance, epoch, beat (JSON), beat ttl ms, retention ms
-- Returns: {OK, run or '', server's beat or '', its PTTL} | {ENDED, reason}: the job is over | {FENCED} | {LOST}
-- Why atomic: an instance that was replaced, or has left, must not look alive.
-- Why safe to run twice: it only renews.
local job = redis.call('HMGET', KEYS[1], 'run', 'status', 'reason')
if job[2] and job[2] ~= 'RUNNING' then return {'ENDED', job[3]} end
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not text or ARGV[3] == '0' then return {'LOST'} end
local held = cjson.decode(text)
if held.instance ~= ARGV[2] or held.epoch ~= tonumber(ARGV[3]) then
  if held.epoch >= tonumber(ARGV[3]) then return {'FENCED'} end
  return {'LOST'}
end

if held.left == 0 then
  redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
  keep(ARGV[6], KEYS[2])
end
return {'OK', job[1] or '', redis.call('GET', KEYS[4]) or '', redis.call('PTTL', KEYS[4])}
