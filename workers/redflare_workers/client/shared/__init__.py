"""What a site's parent and its job processes both need: cells, and the membership of a job.

May import: workspace, ipc, engine, messaging, protocol, apis, util and the broker; nothing of ``server``.
"""
