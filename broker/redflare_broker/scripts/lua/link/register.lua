-- Note that an agent was seen, for inspection; those unseen for the retention time are trimmed.
-- KEYS: agents
-- ARGV: fqcn, retention_ms
-- Returns: {OK}
-- Why atomic: it takes the time from Redis's clock.
-- Why safe to run twice: it only renews.
local seconds = math.floor(now() / 1000)
redis.call('ZADD', agents, seconds, fqcn)
redis.call('ZREMRANGEBYSCORE', agents, '-inf', seconds - math.ceil(retention_ms / 1000))
redis.call('PEXPIRE', agents, retention_ms)
return {'OK'}
