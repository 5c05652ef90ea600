-- Store a new job, whose archive's chunks are stored already.
-- KEYS: jobs, record, log, archive_prefix (of the chunks)
-- ARGV: job_id, chunks, change (JSON: status, reason, by), retention_ms, log_lines (at most), archive (JSON),
--       fields (further ones of the record) ...
-- Returns: {OK} | {KNOWN, fingerprint}: the id is taken | {BLOB_MISSING}: a chunk is gone
-- Why atomic: a job that is listed has its archive, and two jobs never share an id.
-- Why safe to run twice: the archive's prefix is new for each submission, so the job is known as the same.
local known = redis.call('HMGET', record, 'status', 'archive', 'fingerprint')
if known[1] then
  if known[2] == archive then return {'OK'} end
  return {'KNOWN', known[3] or ''}
end
if not renew(archive_prefix, tonumber(chunks), retention_ms) then return {'BLOB_MISSING'} end

-- a log that outlived its record by a moment is not this job's
redis.call('UNLINK', record, log)
local submitted = move(record, log, 'SUBMITTED', change, '', log_lines)
redis.call('HSET', record, 'submitted', submitted, 'abort', 0, 'archive', archive, unpack(ARGV, fields_from))
redis.call('ZADD', jobs, submitted, job_id)
keep(retention_ms, jobs, record, log)
return {'OK'}
