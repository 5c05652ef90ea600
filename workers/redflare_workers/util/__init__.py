"""Small tools that know nothing of federated learning: files that are replaced whole, Python objects given by name,
signals as calls, one thread for linear algebra, what a site allows where it does not say.

Start at: ``atomic_file``, ``object_reference``, ``signals``, ``blas_env``.

May import: the broker's errors and the broker's util.
"""
