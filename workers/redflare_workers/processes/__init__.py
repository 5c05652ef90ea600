"""The processes of jobs: a parent starts and watches one, and it ends when the parent is gone.

Start at: ``job_process.JobProcess`` in the parent, ``ending.ProcessEnding`` in the process.
``kept_process.KeptProcess`` is one that is started again when it ends.

May import: apis, util and the broker.
"""

from __future__ import annotations

from .ending import ProcessEnding
from .exit_code import ExitCode
from .job_process import JobProcess, ProcessMark

__all__ = ["ExitCode", "JobProcess", "ProcessEnding", "ProcessMark"]
