-- Move an entry that cannot be read from an inbox of a cell to the dead-letter stream.
-- KEYS: inbox, dead, cell
-- ARGV: entry (id), reason, dead_entries (at most), dead_value_bytes (at most), retention_ms, instance, epoch
-- Returns: {BURIED} | {GONE} | {FENCED} | {LOST}
-- Why atomic: the entry is in one of the two streams.
-- Why safe to run twice: an entry that is gone stays gone.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
if bury(inbox, entry, dead, reason, dead_entries, dead_value_bytes, retention_ms) then return {'BURIED'} end
return {'GONE'}
