-- Renew the caller's heartbeat and what belongs to the link, and reply with all that the caller may have missed.
-- KEYS: link, tasks, results, heartbeat (the caller's), peer_heartbeat [, task (ledger of the caller's task)]
-- ARGV: role, instance, epoch, beat (JSON), beat_ttl_ms, retention_ms
-- Returns: {OK, open task id, status of the caller's task, peer's beat, peer's PTTL, peer's instance, peer's bye in ms
--          (0: none), attempt at the caller's task} | {FENCED} | {LOST}
-- Why atomic: an instance that is fenced, or has said bye, must not look alive.
-- Why safe to run twice: it only renews.
local lease = side_lease(link, role, instance, epoch)
if lease ~= 'OK' then return {lease} end
local peer = role == 'agent' and 'cj' or 'agent'
local known = redis.call('HMGET', link, 'task', peer, peer .. '_closed', role .. '_closed')
local ledger = task and redis.call('HMGET', task, 'status', 'attempt') or {}
local status = ledger[1] or ''
if known[4] == '0' then
  redis.call('SET', heartbeat, beat, 'PX', beat_ttl_ms)
  keep(retention_ms, link, tasks, results)
  if status ~= '' and not is_settled(status) then keep(retention_ms, task) end
end
return {'OK', known[1] or '', status, redis.call('GET', peer_heartbeat) or '', redis.call('PTTL', peer_heartbeat),
  known[2] or '', known[3] or '0', ledger[2] or '0'}
