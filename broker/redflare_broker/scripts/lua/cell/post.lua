-- Put a message into a cell's inbox, whether that cell is there or not.
-- KEYS: inbox
-- ARGV: retention_ms, fields (of the entry) ...
-- Returns: id of the entry
-- Why atomic: an inbox without a TTL would stay for ever.
-- Why safe to run twice: the receiver knows a message by its id, and a second copy changes nothing.
local entry = redis.call('XADD', inbox, '*', unpack(ARGV, fields_from))
redis.call('PEXPIRE', inbox, retention_ms)
return entry
