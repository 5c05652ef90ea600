-- Set in front of the scripts of a link, behind _common.lua.
--
-- Keys of one link (all share the hash tag {F}); docs/protocol.md describes each field:
--   link     hash    agent, agent_epoch, agent_since, agent_closed and the same for cj; agent_left; task (the open one); last
--                    (the newest task); kept, kept_task (last result of a settled task); streams (1: both have been made)
--   tasks    stream  at most one entry: the open task that nobody has answered yet
--   results  stream  the answer to it, and the answer to a settled task that is still kept
--   task     hash    the ledger of one task

-- Check the caller's lease of its side: OK; FENCED by a newer one; LOST when Redis forgot it, or the caller (epoch 0) has
-- not said hello yet. Behind the status: the link's open task ('' for none), its kept entry, whether its streams exist, and
-- its newest task.
local function side_lease(link, role, instance, epoch)
  local known = redis.call('HMGET', link, role, role .. '_epoch', 'task', 'kept', 'streams', 'last')
  if not known[1] or tonumber(epoch) == 0 then return 'LOST' end
  local current = tonumber(known[2])
  if known[1] == instance and current == tonumber(epoch) then
    return 'OK', known[3] or '', known[4] or '', known[5], known[6]
  end
  if current > tonumber(epoch) then return 'FENCED' end
  return 'LOST'
end

-- When an entry was added, in ms, from its id.
local function added(entry)
  return string.match(entry, '^%d+')
end

local function is_settled(status)
  return status == 'ACCEPTED' or status == 'REJECTED' or status == 'ABORTED'
end

local function remove(stream, entry)
  if entry and entry ~= '' then redis.call('XDEL', stream, entry) end
end

-- End an open task: its entries go, its ledger stays for a while, with the status and the reason.
local function finish(link, tasks, results, task, task_id, status, reason, settled_ms)
  local entries = redis.call('HMGET', task, 'entry', 'result')
  remove(tasks, entries[1])
  remove(results, entries[2])
  redis.call('HSET', task, 'status', status, 'reason', reason, 'settled', now())
  redis.call('PEXPIRE', task, settled_ms)
  if redis.call('HGET', link, 'task') == task_id then redis.call('HSET', link, 'task', '') end
end
