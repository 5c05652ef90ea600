-- Note that an agent was seen, for inspection; those unseen for the retention time are trimmed.
-- KEYS: agents
-- ARGV: fqcn, retention ms
-- Returns: {OK}
-- Why atomic: it takes the time from Redis's own clock.
-- Why safe to run twice: it only renews.
local seconds = math.floor(now() / 1000)
redis.call('ZADD', KEYS[1], seconds, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', seconds - math.ceil(ARGV[2] / 1000))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'OK'}
