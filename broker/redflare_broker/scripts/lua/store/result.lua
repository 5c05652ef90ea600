-- Give a job its result, whose chunks are stored already; one it had before goes.
-- KEYS: jobs, record, log, result_prefix (of the chunks)
-- ARGV: chunks, result (JSON), retention_ms, submission (or '')
-- Returns: {OK} | {UNKNOWN}: there is none of this submission | {BLOB_MISSING}: a chunk is gone
-- Why atomic: a result that the record names is there, and one that is replaced leaves nothing behind.
-- Why safe to run twice: the prefix is new for each result, so it is known as the same.
local known = redis.call('HMGET', record, 'status', 'result')
if not known[1] or not is_of(record, submission) then return {'UNKNOWN'} end
if known[2] == result then return {'OK'} end
if not renew(result_prefix, tonumber(chunks), retention_ms) then return {'BLOB_MISSING'} end

delete_chunks(chunks_of(record, 'result'))
redis.call('HSET', record, 'result', result)
renew_job(jobs, record, log, retention_ms)
return {'OK'}
