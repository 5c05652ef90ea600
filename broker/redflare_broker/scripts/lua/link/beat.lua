-- A heartbeat: the caller is alive, what belongs to the link lives on, and the answer says what the caller must know.
-- KEYS: link, tasks, results, own heartbeat, the peer's heartbeat [, ledger of the caller's task]
-- ARGV: role, instance, epoch, beat (JSON), beat ttl ms, retention ms
-- Returns: {OK, open task id, status of the caller's task, peer's beat, peer's PTTL, peer's instance, peer's bye in ms (0: none)}
--          | {FENCED} | {LOST}
-- Why atomic: an instance that is fenced, or has said bye, must not look alive.
-- Why safe to run twice: it only renews.
local held = standing(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held} end
local peer = ARGV[1] == 'agent' and 'cj' or 'agent'
local linked = redis.call('HMGET', KEYS[1], 'task', peer, peer .. '_closed', ARGV[1] .. '_closed')
local status = KEYS[6] and redis.call('HGET', KEYS[6], 'status') or ''
if linked[4] == '0' then
  redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[5])
  keep(ARGV[6], KEYS[1], KEYS[2], KEYS[3])
  if status ~= '' and not settled(status) then keep(ARGV[6], KEYS[6]) end
end
return {'OK', linked[1] or '', status, redis.call('GET', KEYS[5]) or '', redis.call('PTTL', KEYS[5]),
  linked[2] or '', linked[3] or '0'}
