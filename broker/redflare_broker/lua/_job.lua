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

-- Instance and epoch of a client, as its record says; nothing when there is none.
local function joined(clients, name)
  local text = redis.call('HGET', clients, name)
  if not text then return nil, 0 end
  local held = cjson.decode(text)
  return held.instance, held.epoch, held.left, text
end

-- The prefix of the chunks that a field names; nothing when the payload is inline.
local function prefix_of(ref)
  return ref and cjson.decode(ref).prefix
end
