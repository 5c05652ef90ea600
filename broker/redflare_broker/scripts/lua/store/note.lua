-- Note the state of a site, or why a job waits, and since when.
-- KEYS: record
-- ARGV: field, told (JSON)
-- Returns: {OK} | {UNKNOWN}
-- Why atomic: a record that was deleted must not come back, and why a job waits is not told of one that is over.
-- Why safe to run twice: what is said again keeps its time.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'UNKNOWN'} end
if ARGV[1] == 'waiting' and over(status) then return {'OK'} end
local before = redis.call('HGET', KEYS[1], ARGV[1])
if not before or string.gsub(before, '^{"at":%d+,', '{') ~= ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], stamped(ARGV[2], now()))
end
return {'OK'}
