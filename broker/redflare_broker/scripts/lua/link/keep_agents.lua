-- Trim the list of agents by those unseen for the retention time, and prolong its life.
-- KEYS: agents
-- ARGV: retention_ms
-- Returns: {OK}
-- Why atomic: it takes the time from Redis's clock.
-- Why safe to run twice: it only renews, and trims what was trimmed.
redis.call('ZREMRANGEBYSCORE', agents, '-inf', math.floor(now() / 1000) - math.ceil(retention_ms / 1000))
redis.call('PEXPIRE', agents, retention_ms)
return {'OK'}
