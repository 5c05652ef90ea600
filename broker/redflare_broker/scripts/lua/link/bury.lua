-- A reader moves an entry that is not a message of ours to the dead-letter stream and can go on.
-- KEYS: stream, dead, link
-- ARGV: entry id, reason, longest dead stream, longest value, retention ms, role ('' for an operator), instance, epoch
-- Returns: {BURIED} | {GONE} | {FENCED} | {LOST}
-- Why atomic: an entry is in one stream or in the other; and an instance that was replaced must not put away what its
-- successor waits for.
-- Why safe to run twice: an entry that is no longer there is not added again.
if ARGV[6] ~= '' then
  local held = standing(KEYS[3], ARGV[6], ARGV[7], ARGV[8])
  if held ~= 'OK' then return {held} end
end
if bury(KEYS[1], ARGV[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4], ARGV[5]) then return {'BURIED'} end
return {'GONE'}
