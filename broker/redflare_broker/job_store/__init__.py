"""The jobs that operators submit: records, archives, results and logs, from submission to deletion.

Start at: ``store.JobStore``, what operators and the server do; ``record.JobRecord``, what they read. ``job_files``
moves archives and results, ``log_follower`` follows a job's log, ``steps`` runs the atomic steps.

May import: payload, runtime, scripts, config, transport, wire, util and the root; not links, cells or inspection.
"""
