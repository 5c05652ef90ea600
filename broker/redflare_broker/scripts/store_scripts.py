"""Every change of the job store: the scripts ``lua/store/*.lua``, with ``job_values`` of the job they are about.

``change`` and ``value`` are JSON objects, before whose fields the script puts ``at``. ``step`` and ``batch`` are new
for each step, by which a repeated one is known.
"""

from __future__ import annotations

from typing import Final

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.keys import StoreKeys
from redflare_broker.transport.replies import Arg

from .script import Script

_JOB: Final = "jobs record log"

#: ``fields``: further ones of the record.
SUBMIT: Final = Script(
    "store/submit", f"{_JOB} archive_prefix", "job_id chunks change retention_ms log_lines archive", rest="fields"
)
ADVANCE: Final = Script(
    "store/advance", _JOB, "step status change reason retention_ms log_lines submission", rest="expected"
)
ABORT: Final = Script("store/abort", _JOB, "by reason change retention_ms log_lines", frees=True)
#: A field of the record; ``waiting`` is not written any more once the job is over.
SET_FIELD: Final = Script("store/set_field", "record", "field value submission")
LOG: Final = Script("store/log", "record log", "batch site level log_lines submission", rest="lines")
RESULT: Final = Script("store/result", f"{_JOB} result_prefix", "chunks result retention_ms submission")
RESTORE: Final = Script("store/restore", _JOB, "job_id submission submitted retention_ms log_lines", rest="fields")
RENEW: Final = Script("store/renew", _JOB, "job_id retention_ms", frees=True)
DELETE: Final = Script("store/delete", f"{_JOB} deleted", "job_id deletions retention_ms", frees=True)


def job_values(keys: StoreKeys, policy: JobRetentionPolicy, job_id: str, submission: str = "") -> dict[str, Arg]:
    """Make what all steps of one job share; ``submission``: only of the job that was submitted as this one."""
    return {
        "jobs": keys.jobs,
        "record": keys.record(job_id),
        "log": keys.log(job_id),
        "deleted": keys.deleted,
        "job_id": job_id,
        "submission": submission,
        "retention_ms": policy.retention_ms,
        "log_lines": policy.log_lines,
        "deletions": policy.deletions,
    }
