-- Set in front of the scripts of a cell, behind _common.lua.
--
-- Keys of one cell (all share the hash tag {X}); docs/protocol.md describes each field:
--   cell       hash    instance, epoch, since, closed, host, pid
--   senders    set     the owners of the cells that have written to this one
--   inbox      stream  requests, replies and events of one owner's cells for this cell; `inboxes`: those of several
--   heartbeat  string  the last beat
-- A sender's steps declare its own inbox as their key. All else of the cell are arguments: Redis wants the right to write
-- to each declared key, and a sender has none to what it only reads, nor more than SADD to the set.

-- Check an instance's lease of its cell: OK; FENCED by a newer one; LOST when Redis forgot it.
local function cell_lease(cell, instance, epoch)
  local known = redis.call('HMGET', cell, 'instance', 'epoch')
  if not known[1] or tonumber(epoch) == 0 then return 'LOST' end
  local current = tonumber(known[2])
  if known[1] == instance and current == tonumber(epoch) then return 'OK' end
  if current > tonumber(epoch) then return 'FENCED' end
  return 'LOST'
end

-- Note a sender in the set of its target, and ring when it is new there, or `always`. Returns whether it is new.
local function announce(senders, owner, doorbell, publish, always)
  local new = redis.call('SADD', senders, owner) == 1
  if new or always then redis.call(publish, doorbell, owner) end
  return new
end
