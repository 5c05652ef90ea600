-- Append entries to the history of the job's controller, behind the first `from` of them.
-- KEYS: cell, job, history
-- ARGV: instance, epoch, run, from, retention_ms, entries ...
-- Returns: {OK, 1} | {OK, 0}: Redis has lost those before, append all of them | {ENDED, reason} | {FENCED} | {LOST}
-- Why atomic: a run that was replaced must not write into its successor's history.
-- Why safe to run twice: each entry has its number, and is written anew.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' then return {lease, reason} end
if from == '0' then
  redis.call('UNLINK', history)
elseif not redis.call('HGET', history, from - 1) then
  return {'OK', 0}
end
for index = entries_from, #ARGV do redis.call('HSET', history, from + index - entries_from, ARGV[index]) end
keep(retention_ms, history)
return {'OK', 1}
