"""Connections to Redis or Valkey, and nothing that is said over them.

Start at: ``server.Server``, a server (or cluster, or Sentinel group) with its pool of idle connections. A
``Connection`` runs commands in pipelines: ``socket_connection`` speaks RESP on a socket, ``client_connection`` wraps a
redis-py or fakeredis client. ``url`` and ``dial`` turn a URL into an open socket, ``cluster_slots`` finds a key's node.
A connection is in step (each command has its reply) or closed.

May import: util and the root; redis-py and hiredis are known here alone.
"""
