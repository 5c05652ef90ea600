-- Move an entry that cannot be read from a cell's inbox to the dead-letter stream.
-- KEYS: inbox, dead, cell
-- ARGV: entry, reason, longest stream, longest value, retention ms, instance, epoch
-- Returns: {BURIED} | {GONE} | {FENCED} | {LOST}
-- Why atomic: the entry stands in one of the two streams.
-- Why safe to run twice: an entry that is gone stays gone.
local held = holds(KEYS[3], ARGV[6], ARGV[7])
if held ~= 'OK' then return {held} end
if bury(KEYS[1], ARGV[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5]) then return {'BURIED'} end
return {'GONE'}
