"""What stands in Redis and nothing else: names, bytes, atomic steps, and the two sides of a link.

The modules here, ``keys``, ``constants``, ``errors`` and ``fqcn``, are what the docstrings of the folders call the
root.

May import: nothing.
"""
