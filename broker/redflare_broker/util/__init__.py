"""Small tools that know nothing of Redis or federated learning: threads, wake-ups, pauses, sentences about time and
size.

Start at: ``thread_pool.ElasticThreadPool``, ``wakeup.WakeupEvent``, ``backoff.Backoff``, ``humanize``.

May import: the root.
"""
