-- Write lines into a job's log.
-- KEYS: record, log
-- ARGV: batch (new for each), site, level, lines of a log, line ...
-- Returns: {OK} | {UNKNOWN}
-- Why atomic: the log of a job that was deleted must not come back.
-- Why safe to run twice: the site's last batch is known; two processes that write for one site may repeat one.
local batch = 'logged:' .. ARGV[2]
local known = redis.call('HMGET', KEYS[1], 'status', batch)
if not known[1] then return {'UNKNOWN'} end
if known[2] == ARGV[1] then return {'OK'} end

redis.call('HSET', KEYS[1], batch, ARGV[1])
for index = 5, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'site', ARGV[2], 'level', ARGV[3], 'text', ARGV[index])
end
redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
return {'OK'}
