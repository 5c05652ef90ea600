-- An instance takes over a cell; older ones are fenced from this step on.
-- KEYS: cell, inbox
-- ARGV: instance, epoch (0: it has none yet), retention ms, host, pid
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance}
-- Why atomic: one instance holds the cell, the one with the highest epoch.
-- Why safe to run twice: the holder is answered OK. An epoch is an instance's start by Redis's clock, kept for life.
local epoch = tonumber(ARGV[2])
local held = redis.call('HMGET', KEYS[1], 'instance', 'epoch')
local current = tonumber(held[2] or 0)
if held[1] == ARGV[1] and current >= epoch then return {'OK', current} end
if epoch == 0 then return {'NEXT', math.max(current + 1, now())} end
if current >= epoch then return {'FENCED', current} end

redis.call('HSET', KEYS[1], 'instance', ARGV[1], 'epoch', ARGV[2], 'since', now(), 'closed', 0, 'host', ARGV[4],
  'pid', ARGV[5])
keep(ARGV[3], KEYS[1], KEYS[2])
return {'OK', epoch}
