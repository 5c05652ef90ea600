-- Set in front of the scripts of a job, behind _common.lua.
--
-- Keys of the job whose server has the cell X (all share the hash tag {X}); docs/protocol.md describes each field:
--   cell      hash    instance, epoch: who serves the job; the cell's own scripts write it
--   job       hash    run, instance, epoch, status, reason, started, ended, checkpoint, state and state_data
--   clients   set     the names of the clients
--   client    string  the record of one client: JSON {joined, left, instance, epoch, ...}
--   standing  zset    root ids of the open tasks, by order
--   ended     zset    root ids of the tasks that have ended since the last checkpoint, by order
--   task      hash    the record of one task
--   history   hash    number -> JSON, entries that the controller has appended; the state says how many belong to it
--   blobs     hash    prefix -> "<chunks> <run>", and " free" behind it once no record needs it
-- A client's steps declare its own keys. `job`, `clients` and the server's heartbeat are arguments: Redis wants the right
-- to write to each declared key, and a client has none to what it only reads, nor more than SADD to the set.

-- Check the caller's lease of the job: OK; FENCED by a newer cell; LOST when Redis forgot the cell or the job, or another
-- run was begun: begin again; ENDED and the reason.
local function server_lease(cell, job, instance, epoch, run)
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

-- The names of the clients, of very many not all.
local function names_in(clients)
  local names = redis.call('SRANDMEMBER', clients, 10000)
  table.sort(names)
  return names
end

-- The prefix of the chunks that a field names; nothing when the payload is inline.
local function prefix_of(ref)
  return ref and cjson.decode(ref).prefix
end

-- Note a payload as the server's; a run that notes one again needs it again.
local function own(blobs, prefix, chunks, run, retention_ms)
  if prefix == '' then return end
  redis.call('HSET', blobs, prefix, chunks .. ' ' .. run)
  redis.call('PEXPIRE', blobs, retention_ms)
end

-- Mark a payload that no record needs any more: the next checkpoint returns it, and so does `orphans`.
local function free(blobs, prefix)
  local owned = prefix and redis.call('HGET', blobs, prefix)
  if owned and not string.find(owned, ' free', 1, true) then redis.call('HSET', blobs, prefix, owned .. ' free') end
end

-- Whether a client task's record has no result yet.
local function is_open(record)
  return string.sub(record, 1, 14) == '{"received":0,'
end

-- Drop the results that a checkpoint contains from a task, and of one that is sent for ever, its answered client tasks.
local function strip(task, blobs)
  local forever = redis.call('HGET', task, 'kind') == 'broadcast_forever'
  for _, name in ipairs(redis.call('HKEYS', task)) do
    if string.sub(name, 1, 7) == 'result:' then
      if string.sub(name, -6) == ':blobs' then free(blobs, prefix_of(redis.call('HGET', task, name))) end
      redis.call('HDEL', task, name)
    elseif forever and string.sub(name, 1, 7) == 'client:' and not is_open(redis.call('HGET', task, name)) then
      redis.call('HDEL', task, name)
    end
  end
end
