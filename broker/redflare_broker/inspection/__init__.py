"""Read-only views of everything in Redis, for operators: agents, tasks, jobs, sites, and why something waits.

Way in: ``federation`` for agents and their links, ``jobs`` for jobs, ``tail`` to follow a link's events,
``explain_wait`` for the reasons. Nothing here changes state.

May import: every other folder of the broker but ``embedded`` and ``testing``.
"""
