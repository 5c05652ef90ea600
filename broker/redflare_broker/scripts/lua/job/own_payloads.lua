-- Note payloads as the server's, before their chunks are written; or as no longer its, once they are gone.
-- KEYS: cell, job, blobs
-- ARGV: instance, epoch, run, retention_ms, payloads (prefix, then chunks, 0: no longer the server's) ...
-- Returns: {OK} | {ENDED, reason}: the job is over, and gets no more payloads | {FENCED} | {LOST}
-- Why atomic: only the server that holds the job decides what it owns.
-- Why safe to run twice: it writes the same again.
local lease, reason = server_lease(cell, job, instance, epoch, run)
if lease ~= 'OK' and lease ~= 'ENDED' then return {lease} end
for index = payloads_from, #ARGV, 2 do
  if ARGV[index + 1] == '0' then
    redis.call('HDEL', blobs, ARGV[index])
  elseif lease == 'ENDED' then
    return {'ENDED', reason}
  else
    own(blobs, ARGV[index], ARGV[index + 1], run, retention_ms)
  end
end
return {'OK'}
