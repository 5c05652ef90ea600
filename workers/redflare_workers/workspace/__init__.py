"""The folders of a server or a site: settings, the folder of one run, and the lock that lets in one process at a time.

Start at: ``site_settings.load_site_settings``, ``run_folder.RunFolder``, ``workspace_lock.workspace_lock``, and
``name_claim.claim_name``, by which a name has one process. In the folder of a run, ``job_args`` and ``job_report`` are
the files between a parent and the job's process.

May import: jobs, processes, util and the broker.
"""
