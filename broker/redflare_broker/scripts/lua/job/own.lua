-- Payloads become the server's, before their chunks are written; or are no longer its, once they are gone.
-- KEYS: cell, job, blobs
-- ARGV: instance, epoch, run, retention ms, then prefix and chunks (0: no longer its) of each payload
-- Returns: {OK} | {ENDED, reason}: the job is over, and gets no more payloads | {FENCED} | {LOST}
-- Why atomic: only the server that holds the job says what it owns.
-- Why safe to run twice: it writes the same again.
local held, reason = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' and held ~= 'ENDED' then return {held} end
for index = 5, #ARGV, 2 do
  if ARGV[index + 1] == '0' then
    redis.call('HDEL', KEYS[3], ARGV[index])
  elseif held == 'ENDED' then
    return {'ENDED', reason}
  else
    own(KEYS[3], ARGV[index], ARGV[index + 1], ARGV[3], ARGV[4])
  end
end
return {'OK'}
