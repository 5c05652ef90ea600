-- Take over a side of the link; older instances are fenced from this step on.
-- KEYS: link, tasks, results, notice (channel)
-- ARGV: role, instance, epoch (0: it has none yet), retention_ms, publish (verb)
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance}
-- Why atomic: one instance holds the side, the one with the highest epoch.
-- Why safe to run twice: the holder is answered OK. An epoch is an instance's start by Redis's clock, kept for life, so
-- neither a step that arrives late nor the loss of all data puts an older instance before a newer one.
local known, wanted = redis.call('HMGET', link, role, role .. '_epoch', 'cj_closed'), tonumber(epoch)
local current = tonumber(known[2] or 0)
if known[1] == instance and current >= wanted then return {'OK', current} end
-- later than a goodbye of the CJ, too, which was meant for those before
if wanted == 0 then return {'NEXT', math.max(current + 1, now(), tonumber(known[3] or 0) + 1)} end
if current >= wanted then return {'FENCED', current} end

redis.call('HSET', link, role, instance, role .. '_epoch', epoch, role .. '_since', now(), role .. '_closed', 0)
keep(retention_ms, link, tasks, results)
redis.call(publish, notice, 'hello ' .. role .. ' ' .. epoch)
return {'OK', wanted}
