"""Small tools that know nothing of federated learning: files that are replaced whole, Python objects given by name,
signals as calls.

May import: the broker's util and the standard library.
"""
