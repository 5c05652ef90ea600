-- A client job takes its place on the roll, under its site's name; an older instance of that name is fenced from then on.
-- KEYS: job, clients [, own heartbeat]
-- ARGV: name, instance, epoch (0: it has none yet), record (JSON object), retention ms [, beat (JSON), beat ttl ms]
-- Returns: {NEXT, epoch to call again with}, nothing changed | {OK, epoch} | {FENCED, epoch of the newer instance} |
--          {ENDED, reason}: the job is over
-- Why atomic: one instance holds the name, the one with the highest epoch; it must not look dead before it first beats.
-- Why safe to run twice: the holder is answered OK. As on a link, an epoch is an instance's start by Redis's clock.
local job = redis.call('HMGET', KEYS[1], 'status', 'reason')
if job[1] and job[1] ~= 'RUNNING' then return {'ENDED', job[2]} end
local text, epoch = redis.call('HGET', KEYS[2], ARGV[1]), tonumber(ARGV[3])
local held = text and cjson.decode(text) or {epoch = 0}
if held.instance == ARGV[2] and held.epoch >= epoch then return {'OK', held.epoch} end
if epoch == 0 then return {'NEXT', math.max(held.epoch + 1, now())} end
if held.epoch >= epoch then return {'FENCED', held.epoch} end

redis.call('HSET', KEYS[2], ARGV[1], '{"joined":' .. now() .. ',"left":0,' .. string.sub(ARGV[4], 2))
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[6], 'PX', ARGV[7]) end
keep(ARGV[5], KEYS[2])
return {'OK', epoch}
