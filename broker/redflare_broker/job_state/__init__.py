"""The state of one running job in Redis: who takes part, which tasks are open, and what a restart resumes from.

Way in: ``members.Members`` for a site's side of the membership, ``task_journal`` for the server's records of open
tasks.

May import: runtime, payload, config, scripts, transport, wire, util and the root; not links, cells or inspection.
"""
