-- Write lines into a job's log.
-- KEYS: record, log
-- ARGV: batch (new for each), site, level, log_lines (at most), submission (or ''), lines ...
-- Returns: {OK} | {UNKNOWN}: there is none of this submission
-- Why atomic: the log of a job that was deleted must not come back.
-- Why safe to run twice: the site's last batch is known; two processes that write for one site may repeat one.
local logged = 'logged:' .. site
local known = redis.call('HMGET', record, 'status', logged)
if not known[1] or not is_of(record, submission) then return {'UNKNOWN'} end
if known[2] == batch then return {'OK'} end

redis.call('HSET', record, logged, batch)
for index = lines_from, #ARGV do
  redis.call('XADD', log, 'MAXLEN', log_lines, '*', 'site', site, 'level', level, 'text', ARGV[index])
end
redis.call('PEXPIRE', log, redis.call('PTTL', record))
return {'OK'}
