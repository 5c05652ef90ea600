"""``RunnerContext``: what the runners of a server's jobs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from redflare_broker.cell.cell import Cell
from redflare_broker.job_store.store import JobStore

from redflare_workers.workspace.site_settings import SiteSettings

from .log_writer import LogWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext:
    """One server's."""

    workspace: Path
    settings: SiteSettings
    cell: Cell
    store: JobStore
    logs: LogWriter
    redis_url: str
    server_name: str
    secure_mode: bool
    #: FQCN of a site's cell
    cell_of: Callable[[str], str]
    #: whether a site's client parent is there
    is_alive: Callable[[str], bool]
    #: a runner has come to its end; False: it could not record how
    on_done: Callable[[str, bool], object]
