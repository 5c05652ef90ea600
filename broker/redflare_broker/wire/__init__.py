"""Bytes: how a task, a result and a message look in a stream entry, and how trees of arrays are encoded.

Start at: ``codec.encode`` and ``codec.decode`` for payloads; ``task_entry.Entry`` for the entries of a link,
``message_entry`` for those of a cell's inbox. Nothing here opens a connection: a buffer goes in, a buffer comes out,
and an entry that cannot be read raises ``DecodeError``, which names the place.

May import: the root.
"""
