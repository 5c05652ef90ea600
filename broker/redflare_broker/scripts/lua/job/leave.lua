-- A client job leaves for good: its heartbeat goes, and the roll says when.
-- KEYS: job, clients, own heartbeat
-- ARGV: name, instance, epoch
-- Returns: {OK} | {FENCED} | {LOST}
-- Why atomic: nobody may see a client that has left and is alive.
-- Why safe to run twice: who has left stays so.
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not text or ARGV[3] == '0' then return {'LOST'} end
local held = cjson.decode(text)
if held.instance ~= ARGV[2] or held.epoch ~= tonumber(ARGV[3]) then
  if held.epoch >= tonumber(ARGV[3]) then return {'FENCED'} end
  return {'LOST'}
end
redis.call('DEL', KEYS[3])
if held.left ~= 0 then return {'OK'} end

-- the record's head was written by job_join; what the client gave stays as it is, to the last digit
local record = string.gsub(text, '^({"joined":%d+,"left":)0', '%1' .. now())
redis.call('HSET', KEYS[2], ARGV[1], record)
return {'OK'}
