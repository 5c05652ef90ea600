"""Jobs as folders and zip archives in NVFlare's layout: read, checked as a whole, built, and made from Python.

Start at: ``job_folder.read_job``. ``read_job`` checks a job without running any of its code, ``ComponentBuilder``
builds what a site allows of it, and ``FedJob`` makes one. All errors are reported together, each with file and key.

May import: workflow, processes, apis, util and the broker.
"""

from __future__ import annotations

from redflare_workers.util.site_defaults import SHIPPED

from .app import ClientApp, ServerApp, build_client_app, build_server_app
from .archive import ArchiveError, pack_files, pack_folder, read_files, safe_extract, sweep
from .component_builder import SITE_ARGUMENTS, ComponentBuilder
from .fed_job import Component, FedJob
from .job_folder import JobDefinition, define_job, read_job
from .job_meta import ALL_SITES, SERVER, JobMeta, parse_meta
from .problems import JobProblems, Problem

__all__ = [
    "ALL_SITES",
    "SERVER",
    "SHIPPED",
    "SITE_ARGUMENTS",
    "ArchiveError",
    "ClientApp",
    "Component",
    "ComponentBuilder",
    "FedJob",
    "JobDefinition",
    "JobMeta",
    "JobProblems",
    "Problem",
    "ServerApp",
    "build_client_app",
    "build_server_app",
    "define_job",
    "pack_files",
    "pack_folder",
    "parse_meta",
    "read_files",
    "read_job",
    "safe_extract",
    "sweep",
]
