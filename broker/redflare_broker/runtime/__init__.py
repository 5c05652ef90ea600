"""What runs beside a link, a cell or a job: heartbeats, subscriptions, and the check of Redis before its first use.

Start at: ``heartbeat.Heartbeats`` beats for all endpoints of a process in one pipeline; ``subscriber.Subscriber``
receives wake-ups by pub/sub; ``primary_watch`` leaves a primary that was replaced; ``keyspace_feed`` streams changes of
keys; ``preflight.check`` checks whether Redis is fit.

May import: scripts, config, transport, util and the root.
"""
