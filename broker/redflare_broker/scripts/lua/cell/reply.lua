-- Put a reply into the inbox that the cell which has asked has for this sender, unless nobody would read it.
-- KEYS: inbox
-- ARGV: owner (of the sender's cell), senders, doorbell, publish (verb), may_keep (1: the set of senders, too),
--   retention_ms, cell, heartbeat, most (messages in the inbox), most_dead (while the cell has no heartbeat),
--   most_unknown (while there is no such cell), settled_ms, beat_ttl_ms, fields (of the entry) ...
-- Returns: id of the entry | false: so many stand there that nobody reads them
-- Why atomic: replies to a cell that was never there, or that is gone, would stay in Redis for nobody.
-- Why safe to run twice: as cell/post.
-- PTTL and not EXISTS, for which the users of the documentation have no right
local alive = redis.call('PTTL', heartbeat) ~= -2
local known = alive or redis.call('PTTL', cell) ~= -2
if redis.call('XLEN', inbox) >= tonumber(alive and most or known and most_dead or most_unknown) then return false end
local entry = redis.call('XADD', inbox, '*', unpack(ARGV, fields_from))
local new = announce(senders, owner, doorbell, publish)
if alive then
  redis.call('PEXPIRE', inbox, retention_ms)
  -- later its own heartbeats do
  if new then lengthen(may_keep, retention_ms, senders) end
elseif redis.call('PTTL', inbox) >= 0 then
  -- what its cells have posted before is for a successor, and stays as long as they have said
elseif known then
  redis.call('PEXPIRE', inbox, settled_ms)
  lengthen(may_keep, settled_ms, senders)
else
  redis.call('PEXPIRE', inbox, beat_ttl_ms)
  lengthen(may_keep, beat_ttl_ms, senders)
end
return entry
