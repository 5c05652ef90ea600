"""A site's two programs: the parent (CP), and one process for each job (CJ), with what both need in ``shared``.

Start at: ``parent.client_engine.ClientEngine`` and ``job.client_job.ClientJob``.

May import: nothing; its folders do, and none of them anything of ``server``.
"""
