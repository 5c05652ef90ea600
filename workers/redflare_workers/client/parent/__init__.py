"""A site's parent process (CP): deploys jobs, starts their processes, answers the server, and ends aborted ones.

Start at: ``client_engine.ClientEngine``; ``request_handler`` answers the server, ``reporter`` reports to it,
``job_processes`` keeps all runs, ``site_run`` carries one from launch to end. ``app_deployer`` unpacks and checks an
app; ``agent_abort`` tells the agents of a process that was killed.

May import: ``client.shared``, workspace, jobs, engine, messaging, audit, processes, protocol, apis, util and the
broker.
"""
