"""Read-only views of everything in Redis, for operators: agents, tasks, jobs, sites, and why something waits.

Start at: ``federation`` reads links and the whole namespace, ``jobs`` reads jobs, ``tail`` follows one link live. They
return the dataclasses of ``task_view``, ``job_view``, ``presence`` and ``tail_event``; ``explain_wait`` says why a
job's task is not done. A field that is added to a task's record appears in its view, and in ``--json``, by itself.

Nothing here changes state.

May import: link, cell, job_state, job_store, payload, runtime, scripts, config, transport, wire, util and the root.
"""
