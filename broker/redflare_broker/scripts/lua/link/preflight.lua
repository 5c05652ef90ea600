-- Try what all other scripts stand on: cjson, time, a key that expires, and a wake-up from inside a script.
-- KEYS: a key of the check's own, which serves as the channel's name too
-- ARGV: publish verb, ttl ms
-- Returns: {OK, what came back through JSON and the key}
-- Why atomic: it is the way the other scripts run that is tried.
-- Why safe to run twice: it leaves nothing behind, and expires if it is cut short.
local text = cjson.encode({probe = {1, 'two'}, time = redis.call('TIME')[1]})
redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
local back = cjson.decode(redis.call('GET', KEYS[1]))
redis.call('DEL', KEYS[1])
redis.call(ARGV[1], KEYS[1], 'preflight')
return {'OK', back.probe[2]}
