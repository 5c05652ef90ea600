-- Delete entries of a cell's inbox that were dealt with.
-- KEYS: inbox, cell
-- ARGV: instance, epoch, entry, ...
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: what an instance did that was replaced meanwhile may not count; its successor finds the request.
-- Why safe to run twice: an entry that is gone stays gone.
local held = holds(KEYS[2], ARGV[1], ARGV[2])
if held ~= 'OK' then return {held} end
for index = 3, #ARGV do redis.call('XDEL', KEYS[1], ARGV[index]) end
return {'OK'}
