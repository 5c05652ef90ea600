-- Try what all other scripts need: cjson, time, a key that expires, and a wake-up from inside a script.
-- KEYS: probe (a key of the check alone, which is the channel's name too)
-- ARGV: publish (verb), ttl_ms
-- Returns: {OK, what came back through JSON and the key}
-- Why atomic: it is the way the other scripts run that is tried.
-- Why safe to run twice: it leaves nothing behind, and expires if it is cut short.
local text = cjson.encode({probe = {1, 'two'}, time = redis.call('TIME')[1]})
redis.call('SET', probe, text, 'PX', ttl_ms)
local back = cjson.decode(redis.call('GET', probe))
redis.call('DEL', probe)
redis.call(publish, probe, 'preflight')
return {'OK', back.probe[2]}
