-- Set in front of every script of this folder.
--
-- Keys of one link (all share the hash tag {F}); docs/protocol.md describes each field:
--   link     hash    agent, agent_epoch, agent_since, agent_closed and the same for cj; task (the open one);
--                    kept, kept_task (last answer of a settled task); streams (1: both have been made)
--   tasks    stream  at most one entry: the open task that nobody has answered yet
--   results  stream  the answer to it, and the answer to a settled task that is still kept
--   task     hash    the ledger of one task
--
-- Every answer is an array whose first element is a word. A repeated run answers like the first.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether the caller still holds its side of the link: OK; FENCED by a newer instance; LOST when Redis forgot it, or the
-- caller (epoch 0) has not said hello yet. Behind the word: the link's open task ('' for none), its kept entry, and
-- whether its streams were made.
local function standing(link, role, instance, epoch)
  local held = redis.call('HMGET', link, role, role .. '_epoch', 'task', 'kept', 'streams')
  if not held[1] or tonumber(epoch) == 0 then return 'LOST' end
  local current = tonumber(held[2])
  if held[1] == instance and current == tonumber(epoch) then return 'OK', held[3] or '', held[4] or '', held[5] end
  if current > tonumber(epoch) then return 'FENCED' end
  return 'LOST'
end

-- When an entry was added, in ms, as its id tells.
local function at(entry)
  return string.match(entry, '^%d+')
end

local function settled(status)
  return status == 'ACCEPTED' or status == 'REJECTED' or status == 'ABORTED'
end

local function remove(stream, entry)
  if entry and entry ~= '' then redis.call('XDEL', stream, entry) end
end

local function keep(ttl_ms, ...)
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ttl_ms) end
end

-- End an open task: its entries go, the ledger stays for a while and says what happened.
local function finish(link, tasks, results, task, task_id, status, reason, ttl_ms)
  local entries = redis.call('HMGET', task, 'entry', 'result')
  remove(tasks, entries[1])
  remove(results, entries[2])
  redis.call('HSET', task, 'status', status, 'reason', reason, 'settled', now())
  redis.call('PEXPIRE', task, ttl_ms)
  if redis.call('HGET', link, 'task') == task_id then redis.call('HSET', link, 'task', '') end
end

-- Move an entry that cannot be read to the dead-letter stream, with the reason; long values are cut, and it says so.
local function bury(stream, entry, dead, reason, longest_stream, longest_value, ttl_ms)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found then return false end
  local fields = {'reason', reason, 'stream', stream, 'entry', entry, 'time', now(), 'truncated', 0}
  for index = 1, math.min(#found[2], 512), 2 do
    local value = found[2][index + 1]
    if #value > tonumber(longest_value) then value, fields[10] = string.sub(value, 1, longest_value), 1 end
    if #found[2][index] > 200 then fields[10] = 1 end
    fields[#fields + 1] = 'raw.' .. string.sub(found[2][index], 1, 200)
    fields[#fields + 1] = value
  end
  if #found[2] > 512 then fields[10] = 1 end
  redis.call('XADD', dead, 'MAXLEN', longest_stream, '*', unpack(fields))
  redis.call('XDEL', stream, entry)
  redis.call('PEXPIRE', dead, ttl_ms)
  return true
end
