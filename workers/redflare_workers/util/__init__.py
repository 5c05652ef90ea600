"""Small tools that know nothing of federated learning: files that are replaced whole, Python objects given by name,
signals as calls.

May import: the broker's errors and the broker's util.
"""
