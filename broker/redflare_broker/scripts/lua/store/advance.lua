-- A job comes to a later status, if it is where the caller thinks.
-- KEYS: jobs, record, log
-- ARGV: step (new for each), status, told (JSON: status, reason, by), reason, retention ms, lines of a log, expected statuses ...
-- Returns: {OK, the record} | {REFUSED, status}: it is elsewhere, or further, or its abort was asked for | {UNKNOWN}
-- Why atomic: of two who want to move a job, one does; and an abort that was asked for is never overtaken.
-- Why safe to run twice: a step that was taken answers OK.
local record, to = KEYS[2], ARGV[2]
local known = redis.call('HMGET', record, 'status', 'step', 'abort')
local status = known[1]
if not status then return {'UNKNOWN'} end
if known[2] ~= ARGV[1] then
  local expected = false
  for index = 7, #ARGV do expected = expected or ARGV[index] == status end
  if not expected or rank(to) <= rank(status) then return {'REFUSED', status} end
  if known[3] ~= '0' and not over(to) then return {'REFUSED', status} end
  redis.call('HSET', record, 'step', ARGV[1])
  move(record, KEYS[3], to, ARGV[3], ARGV[4], ARGV[6])
  if over(to) then live(KEYS[1], record, KEYS[3], ARGV[5]) end
end
return {'OK', redis.call('HGETALL', record)}
