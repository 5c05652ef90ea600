-- Take over a cell; older instances are fenced from this step on.
-- KEYS: cell, senders
-- ARGV: instance, epoch (0: it has none yet), retention_ms, host, pid
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance}
-- Why atomic: one instance holds the cell, the one with the highest epoch.
-- Why safe to run twice: the holder is answered OK. An epoch is an instance's start by Redis's clock, kept for life.
local known, wanted = redis.call('HMGET', cell, 'instance', 'epoch'), tonumber(epoch)
local current = tonumber(known[2] or 0)
if known[1] == instance and current >= wanted then return {'OK', current} end
if wanted == 0 then return {'NEXT', math.max(current + 1, now())} end
if current >= wanted then return {'FENCED', current} end

redis.call('HSET', cell, 'instance', instance, 'epoch', epoch, 'since', now(), 'closed', 0, 'host', host, 'pid', pid)
-- the inboxes follow with the first beat
keep(retention_ms, cell, senders)
return {'OK', wanted}
