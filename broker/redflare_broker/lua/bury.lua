-- A reader moves an entry that is not a message of ours to the dead-letter stream and can go on.
-- KEYS: stream, dead
-- ARGV: entry id, reason, longest dead stream, longest value, retention ms
-- Returns: {BURIED} | {GONE}
-- Why atomic: an entry is in one stream or in the other.
-- Why safe to run twice: an entry that is no longer there is not added again.
if bury(KEYS[1], ARGV[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5]) then return {'BURIED'} end
return {'GONE'}
