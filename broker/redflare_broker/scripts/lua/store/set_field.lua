-- Note the state of a site, or why a job waits, and since when.
-- KEYS: record
-- ARGV: field, value (JSON), submission (or '')
-- Returns: {OK} | {UNKNOWN}: there is none of this submission
-- Why atomic: a record that was deleted must not come back, and a job that is over waits for nothing.
-- Why safe to run twice: a value that is written again keeps its time.
local status = redis.call('HGET', record, 'status')
if not status or not is_of(record, submission) then return {'UNKNOWN'} end
if field == 'waiting' and is_finished(status) then return {'OK'} end
local before = redis.call('HGET', record, field)
if not before or string.gsub(before, '^{"at":%d+,', '{') ~= value then
  redis.call('HSET', record, field, stamped(value, now()))
end
return {'OK'}
