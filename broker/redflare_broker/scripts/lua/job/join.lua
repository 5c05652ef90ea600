-- Make a client job a member, under its site's name; an older instance of that name is fenced from then on.
-- KEYS: client [, heartbeat (the client's)]
-- ARGV: job, clients, name, instance, epoch (0: it has none yet), record (JSON object), retention_ms, beat (JSON),
--   beat_ttl_ms, may_keep (1: the set of clients, too)
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance} |
--          {ENDED, reason}: the job is over
-- Why atomic: one instance holds the name, the one with the highest epoch; it must not look dead before it first beats.
-- Why safe to run twice: the holder is answered OK. As on a link, an epoch is an instance's start by Redis's clock.
local known = redis.call('HMGET', job, 'status', 'reason')
if known[1] and known[1] ~= 'RUNNING' then return {'ENDED', known[2]} end
local text, wanted = redis.call('GET', client), tonumber(epoch)
local member = text and cjson.decode(text) or {epoch = 0}
if member.instance == instance and member.epoch >= wanted then return {'OK', member.epoch} end
if wanted == 0 then return {'NEXT', math.max(member.epoch + 1, now())} end
if member.epoch >= wanted then return {'FENCED', member.epoch} end

record = '{"joined":' .. now() .. ',"left":0,' .. string.sub(record, 2)
redis.call('SET', client, record, 'PX', retention_ms)
if heartbeat then redis.call('SET', heartbeat, beat, 'PX', beat_ttl_ms) end
redis.call('SADD', clients, name)
lengthen(may_keep, retention_ms, clients)
return {'OK', wanted}
