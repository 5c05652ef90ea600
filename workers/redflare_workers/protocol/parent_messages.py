"""What the server's parent process (SP), a site's (CP) and a site's job process (CJ) say to each other.

All are requests of cells, with the values in their meta. Every ``run`` names one process of a job, so that what was
said to an earlier one of the same name is not taken for the present one's.
"""

from __future__ import annotations

from typing import Final

#: Channel of what the SP asks of a CP. The reply's meta has ``message``; its rc is OK, or ERROR with ``error``.
SITE: Final = "site"
#: Meta ``job``, ``app``, ``meta`` (the job's), and the app's archive as data (bytes).
DEPLOY: Final = "deploy"
#: Meta ``job``, ``meta``. Reply: ``run``.
START: Final = "start"
#: Meta ``job``, ``reason``. Reply, when the job's process is gone: ``how``, ``at``, ``exit_code``, ``seconds``,
#: ``agents``; see ``AbortProof``.
ABORT: Final = "abort"
#: Meta ``job``, ``reason``. Reply: ``task``, ``how``, ``at``.
ABORT_TASK: Final = "abort_task"
#: Meta ``job``.
DELETE_RUN: Final = "delete_run"
#: Meta ``job``. Reply: ``status``, ``task``, ``started``; without ``job``: ``jobs``, all of them by id.
RUN_INFO: Final = "run_info"
#: Meta ``job``, ``channel``, ``topic``, ``meta``, ``timeout``, and any data: passed on to the CJ, and back.
TO_JOB: Final = "to_job"
#: Event of a CJ to its CP: meta ``job``, ``run``, ``status``.
JOB_STATUS: Final = "job_status"

#: Channel of what a CP tells the SP.
SERVER: Final = "server"
#: Meta as ``SiteReport.to_meta``. Reply: OK when it is taken in; meta ``abort``, a reason: the job must not go on.
SITE_REPORT: Final = "site_report"
#: Meta ``site``, ``job``, ``lines``: of the log of a CJ.
SITE_LOG: Final = "site_log"

#: Channel of what a CP asks of a CJ; meta ``run``, which must be the CJ's. Reply: ``task``, name of that in hand.
JOB_CONTROL: Final = "job_control"
#: End, in order. ABORT and ABORT_TASK as above, with meta ``reason``; ABORT_TASK is answered with ``how``.
PING: Final = "ping"
#: rc: it was for an earlier process of that job.
OTHER_RUN: Final = "OTHER_RUN"
