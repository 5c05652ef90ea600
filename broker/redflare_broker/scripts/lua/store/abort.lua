-- Somebody wants a job to end. One that no site has seen yet is over at once; of any other, the server sees to it.
-- KEYS: jobs, record, log
-- ARGV: by, reason, told (JSON: status, reason, by), retention ms, lines of a log
-- Returns: {OK, the record}, also when it is over already | {UNKNOWN}
-- Why atomic: a job is either dispatched or aborted before that, whoever comes first.
-- Why safe to run twice: the first who asks counts.
local record, log = KEYS[2], KEYS[3]
local known = redis.call('HMGET', record, 'status', 'abort')
local status = known[1]
if not status then return {'UNKNOWN'} end
if known[2] == '0' and not over(status) then
  redis.call('HSET', record, 'abort', now(), 'abort_by', ARGV[1], 'abort_reason', ARGV[2])
  if rank(status) < rank('DISPATCHED') then
    move(record, log, 'FINISHED:ABORTED', ARGV[3], ARGV[2], ARGV[5])
    live(KEYS[1], record, log, ARGV[4])
  end
end
return {'OK', redis.call('HGETALL', record)}
