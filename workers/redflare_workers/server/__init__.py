"""The server's two programs, which share nothing but messages: the parent (SP) and one process for each job (SJ).

Start at: ``parent.server_parent.ServerParent`` and ``job.server_job.ServerJob``.

May import: nothing; its folders do, and none of them anything of ``client``.
"""
