"""What runs beside a link, a cell or a job: heartbeats, subscriptions, and the check of Redis before its first use.

Start at: ``shared_connection.SharedConnection`` is what all links and cells of a process share; in it
``heartbeat.Heartbeats`` beats for all of them in one pipeline, and ``subscriber.Subscriber`` receives their wake-ups by
pub/sub. ``primary_watch`` leaves a primary that was replaced; ``keyspace_feed`` streams changes of keys;
``preflight.check`` checks whether Redis is fit.

May import: scripts, config, transport, util and the root.
"""
