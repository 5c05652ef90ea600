-- An instance leaves its cell; what is unread waits for a successor, but not for long.
-- KEYS: cell, inbox, heartbeat
-- ARGV: instance, epoch, settled retention ms
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: a beat on its way must not make it look alive again.
-- Why safe to run twice: the time of the first goodbye stays.
local held = holds(KEYS[1], ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
if redis.call('HGET', KEYS[1], 'closed') == '0' then redis.call('HSET', KEYS[1], 'closed', now()) end
redis.call('DEL', KEYS[3])
if #redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1) == 0 then redis.call('DEL', KEYS[2]) end
keep(ARGV[3], KEYS[1], KEYS[2])
return {'OK'}
