-- Set in front of the scripts of a job, behind _common.lua.
--
-- Keys of the job whose server has the cell X (all share the hash tag {X}); docs/protocol.md describes each field:
--   cell      hash    instance, epoch: who serves the job; the cell's own scripts write it
--   job       hash    run, instance, epoch, status, reason, started, ended, checkpoint, state and state_data
--   clients   hash    name -> JSON {joined, left, instance, epoch, ...}
--   standing  zset    root ids of the tasks that stand, by order
--   ended     zset    root ids of the tasks that have ended since the last checkpoint, by order
--   task      hash    the ledger of one task
--   blobs     hash    prefix -> "<chunks> <run>", and " free" behind it once no record needs it

-- Whether the caller still serves the job: OK; FENCED by a newer cell; LOST when Redis forgot the cell or the job, or
-- another run was begun: begin again; ENDED and the reason.
local function serving(cell, job, instance, epoch, run)
  local held = redis.call('HMGET', cell, 'instance', 'epoch')
  if not held[1] or tonumber(epoch) == 0 then return 'LOST' end
  if held[1] ~= instance or tonumber(held[2]) ~= tonumber(epoch) then
    return tonumber(held[2] or 0) > tonumber(epoch) and 'FENCED' or 'LOST'
  end
  if not run then return 'OK' end
  local known = redis.call('HMGET', job, 'run', 'status', 'reason')
  if known[1] ~= run then return 'LOST' end
  if known[2] ~= 'RUNNING' then return 'ENDED', known[3] end
  return 'OK'
end

-- The prefix of the chunks that a field names; nothing when the payload is inline.
local function prefix_of(ref)
  return ref and cjson.decode(ref).prefix
end

-- A payload is the server's from now on; a run that notes one again has a use for it again.
local function own(blobs, prefix, chunks, run, ttl_ms)
  if prefix == '' then return end
  redis.call('HSET', blobs, prefix, chunks .. ' ' .. run)
  redis.call('PEXPIRE', blobs, ttl_ms)
end

-- No record needs this payload any more: the server is told with the next checkpoint, or by `orphans`.
local function free(blobs, prefix)
  local held = prefix and redis.call('HGET', blobs, prefix)
  if held and not string.find(held, ' free', 1, true) then redis.call('HSET', blobs, prefix, held .. ' free') end
end

-- Whether a client task's record says that its result has not come in.
local function open(record)
  return string.sub(record, 1, 14) == '{"received":0,'
end

-- A checkpoint contains the results of this ledger: they go, and of a task that is sent for ever, those who gave them.
local function strip(task, blobs)
  local forever = redis.call('HGET', task, 'kind') == 'broadcast_forever'
  for _, name in ipairs(redis.call('HKEYS', task)) do
    if string.sub(name, 1, 7) == 'result:' then
      if string.sub(name, -6) == ':blobs' then free(blobs, prefix_of(redis.call('HGET', task, name))) end
      redis.call('HDEL', task, name)
    elseif forever and string.sub(name, 1, 7) == 'client:' and not open(redis.call('HGET', task, name)) then
      redis.call('HDEL', task, name)
    end
  end
end
