-- Delete entries of a cell's inboxes that were dealt with.
-- KEYS: cell, inboxes (of each entry) ...
-- ARGV: instance, epoch, entries (ids) ...
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: what an instance did that was replaced meanwhile may not count; its successor finds the request.
-- Why safe to run twice: an entry that is gone stays gone.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
for index = inboxes_from, #KEYS do
  -- its sender may have replaced an inbox by something else: the entries of others go all the same
  redis.pcall('XDEL', KEYS[index], ARGV[entries_from + index - inboxes_from])
end
return {'OK'}
