-- An instance takes over its side of the link; older ones are fenced from this step on.
-- KEYS: link, tasks, results, notice channel
-- ARGV: role, instance, epoch (0: it has none yet), retention ms, publish verb
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance}
-- Why atomic: one instance holds the side, the one with the highest epoch.
-- Why safe to run twice: the holder is answered OK. An epoch is an instance's start by Redis's clock, kept for life, so
-- neither a step that arrives late nor the loss of all data puts an older instance before a newer one.
local role, instance, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], role, role .. '_epoch', 'cj_closed')
local current = tonumber(held[2] or 0)
if held[1] == instance and current >= epoch then return {'OK', current} end
-- later than a goodbye of the CJ, too, which was meant for those before
if epoch == 0 then return {'NEXT', math.max(current + 1, now(), tonumber(held[3] or 0) + 1)} end
if current >= epoch then return {'FENCED', current} end

redis.call('HSET', KEYS[1], role, instance, role .. '_epoch', ARGV[3], role .. '_since', now(), role .. '_closed', 0)
keep(ARGV[4], KEYS[1], KEYS[2], KEYS[3])
redis.call(ARGV[5], KEYS[4], 'hello ' .. role .. ' ' .. ARGV[3])
return {'OK', epoch}
