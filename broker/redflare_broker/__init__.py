"""Everything that touches Redis: names, bytes, connections, atomic steps, links, cells, and jobs in Redis.

The modules here, ``keys``, ``constants``, ``errors`` and ``fqcn``, are what the docstrings of the folders call the
root.

May import: nothing.
"""
