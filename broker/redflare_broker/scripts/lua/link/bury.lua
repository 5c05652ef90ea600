-- Move an entry that is not a message of ours to the dead-letter stream, so that its reader can go on.
-- KEYS: stream, dead, link
-- ARGV: entry (id), reason, dead_entries (at most), dead_value_bytes (at most), retention_ms, role ('' for an operator),
--       instance, epoch
-- Returns: {BURIED} | {GONE} | {FENCED} | {LOST}
-- Why atomic: an entry is in one stream or in the other; and an instance that was replaced must not put away what its
-- successor waits for.
-- Why safe to run twice: an entry that is no longer there is not added again.
if role ~= '' then
  local lease = side_lease(link, role, instance, epoch)
  if lease ~= 'OK' then return {lease} end
end
if bury(stream, entry, dead, reason, dead_entries, dead_value_bytes, retention_ms) then return {'BURIED'} end
return {'GONE'}
