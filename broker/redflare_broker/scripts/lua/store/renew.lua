-- Let a job that is not over live on; one that is gone goes from the list.
-- KEYS: jobs, record, log
-- ARGV: id, retention ms
-- Returns: {OK}, also of a job that is over, which is left alone | {UNKNOWN}
-- Why atomic: a job that was submitted this moment must not be unlisted.
-- Why safe to run twice: it only renews.
local status = redis.call('HGET', KEYS[2], 'status')
if not status then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return {'UNKNOWN'}
end
if not over(status) then
  -- chunks are many: twice in each retention time is enough
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) / 2 then live(KEYS[1], KEYS[2], KEYS[3], ARGV[2]) end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {'OK'}
