"""Small tools that know nothing of federated learning: files that are written whole, names of Python objects.

May import: the broker's util and the standard library.
"""
