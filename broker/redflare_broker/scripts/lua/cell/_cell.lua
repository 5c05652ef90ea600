-- Set in front of every script of a cell, and of a job that belongs to one.
--
-- Keys of one cell (all share the hash tag {X}); docs/protocol.md describes each field:
--   cell       hash    instance, epoch, since, closed, host, pid
--   inbox      stream  requests, replies and events for this cell
--   heartbeat  string  the last beat

-- Whether an instance still holds its cell: OK; FENCED by a newer one; LOST when Redis forgot it.
local function holds(cell, instance, epoch)
  local held = redis.call('HMGET', cell, 'instance', 'epoch')
  if not held[1] or tonumber(epoch) == 0 then return 'LOST' end
  local current = tonumber(held[2])
  if held[1] == instance and current == tonumber(epoch) then return 'OK' end
  if current > tonumber(epoch) then return 'FENCED' end
  return 'LOST'
end
