"""The server's side of one job: a controller, and what serves the sites that take part.

Way in: ``server_job.ServerJob``; ``job_main`` is the program that the parent starts. ``task_handler`` hands tasks out,
``result_handler`` takes results in, ``task_journal`` writes what has to survive, ``recovery`` reads it after a death.

May import: communicator, workflow, messaging, protocol, engine, apis, util and the broker; nothing of ``client``.
"""
