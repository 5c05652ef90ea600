"""A run's engine: the context, the components and the events of one job, at the server or a site.

Start at: ``run_engine.RunEngine``, which server and client jobs extend.

May import: messaging, protocol, apis, util and the broker.
"""
