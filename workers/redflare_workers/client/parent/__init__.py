"""A site's parent process (CP): deploys jobs, starts their processes, answers the server, and ends aborted ones.

Way in: ``client_engine.ClientEngine``; ``request_handler`` answers the server, ``reporter`` reports to it,
``job_processes`` keeps all runs, ``site_run`` carries one from launch to end.

May import: ``client.shared``, workspace, jobs, engine, messaging, processes, protocol, apis, util and the broker.
"""
