-- A job has a result, whose chunks stand already; one it had before goes.
-- KEYS: jobs, record, log, prefix of the chunks
-- ARGV: chunks, result (JSON), retention ms
-- Returns: {OK} | {UNKNOWN} | {BLOB_MISSING}: a chunk is gone
-- Why atomic: a result that is told of is there, and one that is replaced leaves nothing behind.
-- Why safe to run twice: the prefix is new for each result, so it is known as the same.
local record = KEYS[2]
local known = redis.call('HMGET', record, 'status', 'result')
if not known[1] then return {'UNKNOWN'} end
if known[2] == ARGV[2] then return {'OK'} end
if not renew(KEYS[4], tonumber(ARGV[1]), ARGV[3]) then return {'BLOB_MISSING'} end

free(held(record, 'result'))
redis.call('HSET', record, 'result', ARGV[2])
live(KEYS[1], record, KEYS[3], ARGV[3])
return {'OK'}
