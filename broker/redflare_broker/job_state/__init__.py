"""The state of one running job in Redis: who takes part, which tasks are open, and what a restart resumes from.

Start at: ``members.Members`` for a site's side of the membership, ``task_store.JobTaskStore`` for the server's task
records.

May import: payload, runtime, scripts, config, transport, wire, util and the root; not links, cells or inspection.
"""
