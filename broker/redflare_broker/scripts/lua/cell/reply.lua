-- Put a reply into the inbox of the cell that has asked, unless nobody would read it.
-- KEYS: inbox, cell, heartbeat
-- ARGV: most (messages in the inbox), most_dead (while it has no heartbeat), most_unknown (while there is no such cell),
--   retention_ms, settled_ms, beat_ttl_ms, fields (of the entry) ...
-- Returns: id of the entry | false: so many stand there that nobody reads them
-- Why atomic: replies to a cell that was never there, or that is gone, would stay in Redis for nobody.
-- Why safe to run twice: as cell/post.
-- PTTL and not EXISTS, for which the users of the documentation have no right
local alive = redis.call('PTTL', heartbeat) ~= -2
local known = alive or redis.call('PTTL', cell) ~= -2
if redis.call('XLEN', inbox) >= tonumber(alive and most or known and most_dead or most_unknown) then return false end
local entry = redis.call('XADD', inbox, '*', unpack(ARGV, fields_from))
if alive then
  redis.call('PEXPIRE', inbox, retention_ms)
elseif redis.call('PTTL', inbox) < 0 then
  -- what others have posted is for a successor, and stays as long as they have said
  if known then redis.call('PEXPIRE', inbox, settled_ms) else redis.call('PEXPIRE', inbox, beat_ttl_ms) end
end
return entry
