"""What runs beside a link, a cell or a job: heartbeats, subscriptions, and the check of a server before its first use.

Way in: ``heartbeat.Heartbeats`` beats for all endpoints of a process in one pipeline; ``subscriber.Subscriber``
receives wake-ups by pub/sub; ``keyspace_feed`` streams changes of keys; ``preflight.check`` tries whether a server is
fit.

May import: scripts, config, transport, util and the root.
"""
