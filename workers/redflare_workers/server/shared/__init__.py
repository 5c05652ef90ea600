"""What the server's parent and its job processes both need: a registration in Redis, and the members that are polled.

Start at: ``job_registration.JobRegistration``.

May import: workspace, messaging, engine, ipc, protocol, apis, util and the broker; nothing of ``client``.
"""
