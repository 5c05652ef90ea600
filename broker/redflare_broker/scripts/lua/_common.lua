-- Set in front of every script, followed by the prologue of its folder (link/_link.lua, ...) and by one generated line each
-- for KEYS and ARGV, which names them as the Python declaration of the script does.
--
-- Every reply is an array that begins with a status. A script that is run again replies as it did the first time.

-- The time of Redis's clock, in ms.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Give keys a TTL.
local function keep(ttl_ms, ...)
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ttl_ms) end
end

-- Let a set to which others add themselves live at least so long, if they may do that (1): else it is its owner's to renew.
local function lengthen(may_keep, ttl_ms, set)
  if may_keep == '1' and redis.call('PTTL', set) < tonumber(ttl_ms) then redis.call('PEXPIRE', set, ttl_ms) end
end

-- Move an entry that cannot be read to the dead-letter stream, with the reason; long values are cut, and `truncated` is 1.
local function bury(stream, entry, dead, reason, dead_entries, dead_value_bytes, retention_ms)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return false end
  local fields = {'reason', reason, 'stream', stream, 'entry', entry, 'time', now(), 'truncated', 0}
  for index = 1, math.min(#found[2], 512), 2 do
    local value = found[2][index + 1]
    if #value > tonumber(dead_value_bytes) then value, fields[10] = string.sub(value, 1, dead_value_bytes), 1 end
    if #found[2][index] > 200 then fields[10] = 1 end
    fields[#fields + 1] = 'raw.' .. string.sub(found[2][index], 1, 200)
    fields[#fields + 1] = value
  end
  if #found[2] > 512 then fields[10] = 1 end
  redis.call('XADD', dead, 'MAXLEN', dead_entries, '*', unpack(fields))
  redis.call('XDEL', stream, entry)
  redis.call('PEXPIRE', dead, retention_ms)
  return true
end
