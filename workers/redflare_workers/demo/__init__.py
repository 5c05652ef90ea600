"""``redflare demo``: a federated training to watch, whose processes are killed and replaced.

Start at: ``command``. ``run`` starts the programs ``server``, ``client_jobs`` and ``site_agent``, and compares the
model that they train with training without a federation.

May import: client, server, workflow, ipc, processes, apis, util, the broker and the agent.
"""
