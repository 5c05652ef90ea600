"""``RunnerContext``: what all job runners of a server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redflare_broker.cell.cell import Cell
from redflare_broker.job_store.store import JobStore

from redflare_workers.workspace.site_settings import SiteSettings

from .log_writer import LogWriter


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
    #: called at the end of a runner; False: it could not record how the job ended
    on_done: Callable[[str, bool], object]
