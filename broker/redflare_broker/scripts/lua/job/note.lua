-- A client task is written into its task's ledger: sent, or with its result.
-- KEYS: cell, job, task, blobs
-- ARGV: instance, epoch, run, client task id, record (JSON, received first), resume (1: results are kept),
--       prefix of the result's chunks ('': inline, or none), chunks, retention ms, fields of the result ...
-- Returns: {OK} | {GONE}: the ledger is not there any more; the payload is set free | {ENDED, reason}: the job is over |
--          {FENCED} | {LOST}
-- Why atomic: a result that is noted has its payload owned.
-- Why safe to run twice: the first result counts, and one that is in is not taken back.
local task, field = KEYS[3], 'client:' .. ARGV[4]
local held, reason = serving(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
if held ~= 'OK' then return {held, reason} end
local known = redis.call('HMGET', task, 'kind', field)
if not known[1] then
  own(KEYS[4], ARGV[7], ARGV[8], ARGV[3], ARGV[9])
  free(KEYS[4], ARGV[7])
  return {'GONE'}
end
if known[2] and not open(known[2]) then return {'OK'} end

if known[1] == 'broadcast_forever' and ARGV[6] == '0' and not open(ARGV[5]) then
  redis.call('HDEL', task, field)
else
  redis.call('HSET', task, field, ARGV[5], unpack(ARGV, 10))
end
own(KEYS[4], ARGV[7], ARGV[8], ARGV[3], ARGV[9])
return {'OK'}
