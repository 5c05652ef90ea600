-- Delete entries of a cell's inboxes that were dealt with.
-- KEYS: cell, inboxes ...
-- ARGV: instance, epoch, entries (of each inbox their number, and their ids) ...
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: what an instance did that was replaced meanwhile may not count; its successor finds the request.
-- Why safe to run twice: an entry that is gone stays gone.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
local at = entries_from
for index = inboxes_from, #KEYS do
  local last = at + tonumber(ARGV[at])
  -- its sender may have replaced an inbox by something else: the entries of others go all the same
  redis.pcall('XDEL', KEYS[index], unpack(ARGV, at + 1, last))
  at = last + 1
end
return {'OK'}
