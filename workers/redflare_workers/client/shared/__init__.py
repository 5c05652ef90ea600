"""What a site's parent and its job processes both need: cells, and the membership of a job.

Start at: ``cell_host.CellHost``, which all sites of a process share; ``membership.Membership`` is one site's.

May import: workspace, ipc, engine, messaging, protocol, apis, util and the broker; nothing of ``server``.
"""
