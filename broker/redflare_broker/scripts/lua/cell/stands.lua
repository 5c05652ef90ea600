-- Which of some entries stand in an inbox; their payload stays where it is.
-- KEYS: inbox
-- ARGV: entry, ...
-- Returns: 1 or 0 for each
-- Why atomic: it need not be; a script saves the payload the way to the caller.
-- Why safe to run twice: it changes nothing.
local found = {}
for index, entry in ipairs(ARGV) do
  found[index] = #redis.call('XRANGE', KEYS[1], entry, entry)
end
return found
