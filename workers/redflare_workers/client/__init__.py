"""A site: its client parent, and its side of a job, in which tasks are asked for, carried out, and submitted."""

from __future__ import annotations

from .client_engine import ClientEngine, ClientRunInfo, TaskAbortProof
from .client_job import ClientJob
from .client_status import ClientStatus
from .job_host import JobHost
from .site_report import Reporter, SiteReport
from .site_run import AbortProof
from .site_settings import Site, SiteArgs, SiteSettings, load_site_settings

__all__ = [
    "AbortProof",
    "ClientEngine",
    "ClientJob",
    "ClientRunInfo",
    "ClientStatus",
    "JobHost",
    "Reporter",
    "Site",
    "SiteArgs",
    "SiteReport",
    "SiteSettings",
    "TaskAbortProof",
    "load_site_settings",
]
