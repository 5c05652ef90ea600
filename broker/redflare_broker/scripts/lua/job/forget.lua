-- Forget what another job of this id has left, before the first run of this one; payloads are left to that run.
-- KEYS: job, clients, standing, ended, task_prefix (of the tasks of both sets), client_prefix
-- ARGV: (none)
-- Returns: {OK}
-- Why atomic: what is left of a job must not be taken for a whole one.
-- Why safe to run twice: what is gone is gone.
for _, set in ipairs({standing, ended}) do
  for _, root in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('UNLINK', task_prefix .. root) end
end
for _, name in ipairs(names_in(clients)) do redis.call('UNLINK', client_prefix .. name) end
redis.call('UNLINK', job, clients, standing, ended)
return {'OK'}
