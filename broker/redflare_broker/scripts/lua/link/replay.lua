-- Put a dead letter back into its stream, field by field as it was.
-- KEYS: dead, tasks, results
-- ARGV: letter (id), retention_ms
-- Returns: {REPLAYED, stream, new entry id} | {TRUNCATED}: cut when it was buried, it stays | {FOREIGN}: no letter of
--          a reader of this link, it stays | {GONE}
-- Why atomic: an entry is in one stream or in the other.
-- Why safe to run twice: a letter that is no longer there is not added again.
local found = redis.call('XRANGE', dead, letter, letter)[1]
if not found then return {'GONE'} end
local head, fields = {}, {}
for index = 1, #found[2], 2 do
  local name, value = found[2][index], found[2][index + 1]
  if string.sub(name, 1, 4) == 'raw.' then
    fields[#fields + 1] = string.sub(name, 5)
    fields[#fields + 1] = value
  else
    head[name] = value
  end
end
local known = head['stream'] == tasks or head['stream'] == results
if not known or #fields == 0 or #fields > 512 then return {'FOREIGN'} end
if head['truncated'] ~= '0' then return {'TRUNCATED'} end

local entry = redis.call('XADD', head['stream'], '*', unpack(fields))
redis.call('XDEL', dead, letter)
keep(retention_ms, head['stream'])
return {'REPLAYED', head['stream'], entry}
