-- Delete a job that is over, with all that it has.
-- KEYS: jobs, record, log
-- ARGV: id
-- Returns: {OK}: it is gone, now or before | {OPEN, status}: it is not over
-- Why atomic: a record and its chunks go together.
-- Why safe to run twice: what is gone is gone.
local status = redis.call('HGET', KEYS[2], 'status')
if status and not over(status) then return {'OPEN', status} end

free(held(KEYS[2], 'archive'))
free(held(KEYS[2], 'result'))
redis.call('UNLINK', KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[1], ARGV[1])
return {'OK'}
