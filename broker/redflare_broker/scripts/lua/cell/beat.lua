-- A cell's heartbeat: it is alive, and what belongs to it lives on.
-- KEYS: cell, inbox, heartbeat
-- ARGV: instance, epoch, beat (JSON), beat ttl ms, retention ms
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: an instance that is fenced, or has said bye, must not look alive.
-- Why safe to run twice: it only renews.
local held = holds(KEYS[1], ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
if redis.call('HGET', KEYS[1], 'closed') == '0' then
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
  keep(ARGV[5], KEYS[1], KEYS[2])
end
return {'OK'}
