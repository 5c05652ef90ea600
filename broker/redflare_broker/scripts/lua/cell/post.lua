-- Put a message into a cell's inbox, whether that cell is there or not.
-- KEYS: inbox
-- ARGV: retention ms, field, value, ...
-- Returns: id of the entry
-- Why atomic: an inbox without a TTL would stand for ever.
-- Why safe to run twice: the receiver knows a message by its id, and a second copy changes nothing.
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return entry
