-- Leave the job for good: the client's heartbeat goes, and its record notes when.
-- KEYS: client, heartbeat (the client's)
-- ARGV: instance, epoch
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: nobody may see a client that has left and is alive.
-- Why safe to run twice: a client that has left stays so.
local text = redis.call('GET', client)
if not text or epoch == '0' then return {'LOST'} end
local member = cjson.decode(text)
if member.instance ~= instance or member.epoch ~= tonumber(epoch) then
  if member.epoch >= tonumber(epoch) then return {'FENCED'} end
  return {'LOST'}
end
redis.call('DEL', heartbeat)
if member.left ~= 0 then return {'OK'} end

-- the record's head was written by job/join; what the client gave stays as it is, to the last digit
local record = string.gsub(text, '^({"joined":%d+,"left":)0', '%1' .. now())
redis.call('SET', client, record, 'KEEPTTL')
return {'OK'}
