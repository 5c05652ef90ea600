-- A new job, whose archive's chunks stand already.
-- KEYS: jobs, record, log, prefix of the archive's chunks
-- ARGV: id, chunks, told (JSON: status, reason, by), retention ms, lines of a log, 'archive', archive (JSON), further fields ...
-- Returns: {OK} | {KNOWN, fingerprint}: the id is taken | {BLOB_MISSING}: a chunk is gone
-- Why atomic: a job that is listed has its archive, and two jobs never share an id.
-- Why safe to run twice: the archive's prefix is new for each submission, so the job is known as the same.
local record = KEYS[2]
local known = redis.call('HMGET', record, 'status', 'archive', 'fingerprint')
if known[1] then
  if known[2] == ARGV[7] then return {'OK'} end
  return {'KNOWN', known[3] or ''}
end
if not renew(KEYS[4], tonumber(ARGV[2]), ARGV[4]) then return {'BLOB_MISSING'} end

-- a log that outlived its record by a moment is not this job's
redis.call('UNLINK', record, KEYS[3])
local submitted = move(record, KEYS[3], 'SUBMITTED', ARGV[3], '', ARGV[5])
redis.call('HSET', record, 'submitted', submitted, 'abort', 0, unpack(ARGV, 6))
redis.call('ZADD', KEYS[1], submitted, ARGV[1])
keep(ARGV[4], KEYS[1], record, KEYS[3])
return {'OK'}
