"""``RunRecord``: what a successor of this client parent must know of a run, in ``process.json`` of its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from redflare_workers.processes.job_process import ProcessMark
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.run_folder import PROCESS_FILE, RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The state of a run; the content of ``process.json``."""

    job: str
    #: names the process
    run: str
    #: which of the jobs that were submitted under this id; "": that is not known
    submission: str = ""
    status: ClientStatus = ClientStatus.STARTING
    pid: int = 0
    #: when the process was started, see ``ProcessMark.started``
    pid_started: str = ""
    #: when it was launched, in seconds since 1970
    launched: float = 0.0
    #: how often it was started again because it had been killed
    restarts: int = 0
    #: why it is aborted; "": it is not
    abort: str = ""
    exit_code: int | None = None
    reason: str = ""
    how: str = ""
    #: when the process was gone
    ended: float = 0.0
    #: what became of its agents when it was aborted
    agents: Mapping[str, str] = field(default_factory=dict)
    #: the server has recorded how it ended
    reported: bool = False

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(pid=self.pid, started=self.pid_started, mark=self.run)

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecord | None:
        """Read the record of a folder; None: there is none, or it cannot be read."""
        data = folder.read(PROCESS_FILE)
        if data is None:
            return None
        try:
            record = cls(**{name: data[name] for name in cls.__slots__ if name in data})
            return replace(record, job=folder.job_id, status=ClientStatus(record.status))
        except (TypeError, ValueError) as error:
            logger.error("%s: cannot read %s; the run is ignored: %s", folder, PROCESS_FILE, error)
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRunInfo:
    """How a job stands at a site. After NVFlare's ``ClientRunInfo``."""

    job_id: str
    current_task_name: str = ""
    #: when its process was launched, in seconds since 1970; None: it was not
    start_time: float | None = None
    status: ClientStatus = ClientStatus.NOT_STARTED
