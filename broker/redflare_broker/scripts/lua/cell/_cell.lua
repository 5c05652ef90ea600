-- Set in front of the scripts of a cell, behind _common.lua.
--
-- Keys of one cell (all share the hash tag {X}); docs/protocol.md describes each field:
--   cell       hash    instance, epoch, since, closed, host, pid
--   inbox      stream  requests, replies and events for this cell
--   heartbeat  string  the last beat

-- Check an instance's lease of its cell: OK; FENCED by a newer one; LOST when Redis forgot it.
local function cell_lease(cell, instance, epoch)
  local known = redis.call('HMGET', cell, 'instance', 'epoch')
  if not known[1] or tonumber(epoch) == 0 then return 'LOST' end
  local current = tonumber(known[2])
  if known[1] == instance and current == tonumber(epoch) then return 'OK' end
  if current > tonumber(epoch) then return 'FENCED' end
  return 'LOST'
end
