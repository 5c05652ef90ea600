-- Tell which of some entries are in the inbox that a cell has for their sender, without sending their payload; if some
-- are, announce the sender once more, in case that Redis has forgotten it.
-- KEYS: inbox
-- ARGV: owner (of the sender's cell), senders, doorbell, publish (verb), may_keep (1: the set of senders, too),
--   retention_ms, entries (ids) ...
-- Returns: 1 or 0 for each
-- Why atomic: it need not be; a script saves the payload the way to the caller.
-- Why safe to run twice: a set has each sender once, and a ring is a hint.
local found, any = {}, false
for index = entries_from, #ARGV do
  found[#found + 1] = #redis.call('XRANGE', inbox, ARGV[index], ARGV[index])
  any = any or found[#found] == 1
end
if any then
  announce(senders, owner, doorbell, publish, true)
  lengthen(may_keep, retention_ms, senders)
end
return found
