-- Delete entries of a cell's inbox that were dealt with.
-- KEYS: inbox, cell
-- ARGV: instance, epoch, entries (ids) ...
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: what an instance did that was replaced meanwhile may not count; its successor finds the request.
-- Why safe to run twice: an entry that is gone stays gone.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
for index = entries_from, #ARGV do redis.call('XDEL', inbox, ARGV[index]) end
return {'OK'}
