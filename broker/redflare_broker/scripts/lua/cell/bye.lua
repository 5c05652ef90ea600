-- Leave a cell; what is unread waits for a successor, but not for long.
-- KEYS: cell, heartbeat, senders, inboxes ...
-- ARGV: instance, epoch, settled_ms
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: a beat on its way must not make it look alive again.
-- Why safe to run twice: the time of the first goodbye stays.
local lease = cell_lease(cell, instance, epoch)
if lease ~= 'OK' then return {lease} end
if redis.call('HGET', cell, 'closed') == '0' then redis.call('HSET', cell, 'closed', now()) end
redis.call('DEL', heartbeat)
for index = inboxes_from, #KEYS do
  local inbox = KEYS[index]
  if #redis.call('XRANGE', inbox, '-', '+', 'COUNT', 1) == 0 then redis.call('DEL', inbox) end
  keep(settled_ms, inbox)
end
keep(settled_ms, cell, senders)
return {'OK'}
