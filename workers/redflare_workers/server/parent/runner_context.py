"""``RunnerContext``: what all job runners of a server share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redflare_broker.cell.cell import Cell
from redflare_broker.job_store.store import JobStore

from redflare_workers.audit.audit import Audit
from redflare_workers.workspace.job_args import ServerJobArgs
from redflare_workers.workspace.site_settings import SiteSettings

from .log_writer import LogWriter
from .site_heads import SiteHeads


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext:
    """What all job runners of a server share."""

    workspace: Path
    settings: SiteSettings
    cell: Cell
    store: JobStore
    logs: LogWriter
    redis_url: str = field(repr=False)
    server_name: str
    secure_mode: bool
    #: returns the FQCN of a site's cell
    cell_of: Callable[[str], str]
    #: returns whether a site's client parent is connected
    is_alive: Callable[[str], bool]
    #: returns whether a site's client parent has said bye
    has_left: Callable[[str], bool]
    #: takes what becomes of jobs
    audit: Audit = field(default_factory=Audit)
    #: what sites tell of theirs
    heads: SiteHeads = field(default_factory=SiteHeads)
    #: called at the end of a runner; False: it could not record how the job ended
    on_done: Callable[[str, bool], object]

    def job_args(self, job_id: str, meta: Mapping[str, Any], participants: list[str]) -> ServerJobArgs:
        """Make the arguments of another process of a job."""
        return ServerJobArgs(
            workspace=str(self.workspace),
            job_id=job_id,
            run=uuid.uuid4().hex,
            redis_url=self.redis_url,
            server_name=self.server_name,
            secure_mode=self.secure_mode,
            allow=list(self.settings.allow),
            allow_custom=self.settings.allow_custom,
            meta=dict(meta),
            participants=participants,
            join_wait=self.settings.join_wait,
        )
