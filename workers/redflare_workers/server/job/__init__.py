"""The server's side of one job: a controller, and all that serves the sites that take part.

Start at: ``server_job.ServerJob``; ``job_main`` is the program that the parent starts. A job that has begun is a
``serving_job.ServingJob``: it routes requests to ``task_handler`` (gives tasks) and ``result_handler`` (takes results),
``task_journal`` writes all that must survive, ``recovery`` holds it after a restart. ``clients`` knows the sites by the
member list, ``payloads`` stores what they fetch, ``memory_gate`` lets large results in one after another.

May import: ``server.shared``, workspace, jobs, workflow, communicator, ipc, engine, messaging, processes, protocol,
apis, util and the broker; nothing of ``client``, and nothing of ``server.parent``: that is another program.
"""
