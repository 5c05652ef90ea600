"""The server's parent process: takes jobs from the store, schedules them, and watches over their processes.

Way in: ``server_parent.ServerParent``; ``job_runner`` carries one job from dispatch to its end, ``job_scheduler``
decides which begins and why another waits.

May import: ``server.shared``, workspace, jobs, ipc, engine, messaging, processes, protocol, apis, util and the broker;
nothing of ``client``, and nothing of ``server.job``: that is another program.
"""
