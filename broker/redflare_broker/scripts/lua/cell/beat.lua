-- Renew a cell's heartbeat and what belongs to it.
-- KEYS: cell, heartbeat, senders, inboxes ...
-- ARGV: instance, epoch, beat (JSON), beat_ttl_ms, retention_ms
-- Returns: {OK, how many senders the set has} | {FENCED} | {LOST}
-- Why atomic: an instance that is fenced, or has said bye, must not look alive.
-- Why safe to run twice: it only renews.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
if redis.call('HGET', cell, 'closed') == '0' then
  redis.call('SET', heartbeat, beat, 'PX', beat_ttl_ms)
  keep(retention_ms, cell, senders)
  for index = inboxes_from, #KEYS do
    local inbox = KEYS[index]
    keep(retention_ms, inbox)
  end
end
return {'OK', redis.call('SCARD', senders)}
