-- Put a message into the inbox that a cell has for its sender, whether that cell is there or not.
-- KEYS: inbox
-- ARGV: owner (of the sender's cell), senders, doorbell, publish (verb), may_keep (1: the set of senders, too),
--   retention_ms, fields (of the entry) ...
-- Returns: id of the entry
-- Why atomic: an inbox without a TTL would stay for ever, and nobody would read one that is not announced.
-- Why safe to run twice: the receiver knows a message by its id, and a second copy changes nothing.
local entry = redis.call('XADD', inbox, '*', unpack(ARGV, fields_from))
redis.call('PEXPIRE', inbox, retention_ms)
announce(senders, owner, doorbell, publish)
lengthen(may_keep, retention_ms, senders)
return entry
