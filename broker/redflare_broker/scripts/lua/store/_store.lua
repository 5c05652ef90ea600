-- Set in front of the scripts of the job store, behind _common.lua.
--
-- Keys of the store whose server has the cell S (all share the hash tag {S}); docs/protocol.md describes each field:
--   jobs    zset    job id -> submitted, ms
--   record  hash    status, name, meta, submitter, submitted, changed, reason, history, waiting, agents, site:<name>,
--                   abort, abort_by, abort_reason, archive, result, fingerprint, submission, step, logged:<site>
--   log     stream  lines, and the changes of status, whose entries wake those who follow it
--   deleted zset    job id, a space, submission -> deleted, ms
--   chunks  string  <prefix>:<n>: an archive, or a result; `archive` and `result` of the record say where they are
--
-- Chunks live at least as long as the record that names them.

local ranks = {SUBMITTED = 1, APPROVED = 2, DISPATCHED = 3, RUNNING = 4}

local function rank(status)
  return ranks[status] or 5
end

local function is_finished(status)
  return string.sub(status, 1, 9) == 'FINISHED:'
end

-- Whether a record is that of this submission ('': of any): another job may have been submitted under the id of a lost one.
local function is_of(record, submission)
  return submission == '' or redis.call('HGET', record, 'submission') == submission
end

-- A JSON object with a time put before its fields.
local function stamped(object, at_ms)
  return '{"at":' .. at_ms .. ',' .. string.sub(object, 2)
end

-- Move a job to a status; `change` (JSON: status, reason, by) goes into its history. Returns when, in ms.
local function move(record, log, status, change, reason, log_lines)
  local at_ms, history = now(), redis.call('HGET', record, 'history')
  local before = history and string.sub(history, 1, -2) .. ',' or '['
  redis.call('HSET', record, 'status', status, 'changed', at_ms, 'reason', reason, 'history',
    before .. stamped(change, at_ms) .. ']')
  redis.call('HDEL', record, 'waiting')
  redis.call('XADD', log, 'MAXLEN', log_lines, '*', 'site', '', 'status', status, 'text', reason)
  return at_ms
end

-- Prefix and number of the chunks of the job's `archive` or `result`; '' and 0 when it has none.
local function chunks_of(record, name)
  local ref = redis.call('HGET', record, name)
  if not ref then return '', 0 end
  ref = cjson.decode(ref)
  local bytes = 0
  for _, size in ipairs(ref.sizes) do bytes = bytes + size end
  return ref.prefix, math.ceil(bytes / ref.chunk)
end

-- Renew chunks; whether all of them are there.
local function renew(prefix, chunks, ttl_ms)
  for number = 0, chunks - 1 do
    if redis.call('PEXPIRE', prefix .. ':' .. number, ttl_ms) == 0 then return false end
  end
  return true
end

local function delete_chunks(prefix, chunks)
  for number = 0, chunks - 1 do redis.call('UNLINK', prefix .. ':' .. number) end
end

-- Renew all of a job.
local function renew_job(jobs, record, log, ttl_ms)
  for _, name in ipairs({'archive', 'result'}) do
    local prefix, chunks = chunks_of(record, name)
    renew(prefix, chunks, ttl_ms)
  end
  keep(ttl_ms, jobs, record, log)
end
