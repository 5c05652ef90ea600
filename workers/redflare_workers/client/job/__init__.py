"""A site's side of one job (CJ): asks for tasks, has executors carry them out, and submits the results.

Start at: ``client_job.ClientJob``; ``job_main`` is the program that the parent starts; ``task_runner`` runs one task,
``server_requests`` gets it from the server and submits its result.

May import: ``client.shared``, workspace, jobs, ipc, engine, messaging, processes, protocol, apis, util and the broker.
"""
