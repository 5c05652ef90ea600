"""The server's parent process: takes jobs from the store, schedules them, and watches over their processes.

Start at: ``server_parent.ServerParent``; ``job_runner`` carries one job from dispatch to its end, ``job_scheduler``
decides which begins and why another waits. ``job_checks`` checks submitted jobs, by the rules of ``admission``;
``connected_sites`` knows the sites; ``job_sites`` are those of one job, ``held_record`` is its record,
``server_process`` is its process here, ``job_verdict`` decides how it ends.
``reaper`` ends or resumes what an earlier server left; ``deleted_jobs`` removes the folders of deleted jobs;
``site_messages`` handles what sites tell, ``log_writer`` stores the lines of jobs' logs; ``site_heads`` are the last
entries of the sites' audit logs; ``parent_engine`` carries aux messages and streams.

May import: ``server.shared``, workspace, jobs, ipc, engine, messaging, audit, processes, protocol, apis, util and the
broker; nothing of ``client``, and nothing of ``server.job``: that is another program.
"""
