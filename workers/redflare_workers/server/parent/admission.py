"""Whether the server accepts a job: it is read and checked as a whole before any site hears of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from redflare_broker.errors import BlobMissing, ConfigError, DecodeError
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import JobStore

from redflare_workers.jobs.component_builder import ComponentBuilder
from redflare_workers.jobs.custom_code import CustomCode
from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import SERVER, JobMeta, parse_meta
from redflare_workers.jobs.problems import Problem
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

from .job_files import fetch_job


def refusal(record: JobRecord, store: JobStore, workspace: Path, settings: SiteSettings) -> str:
    """Read and check a job; return why the server rejects it, or "", and then the store knows its agents.

    Raises:
        JobUnknown: it was deleted meanwhile.
        Unavailable, ServerError: of Redis.
    """
    try:
        folder = RunFolder(workspace, record.id)
        if folder.is_foreign:
            return f"{folder.path} exists and is not the run of a job; submit the job under another id"
        definition = fetch_job(store, record.id, workspace, settings)
    except (ConfigError, BlobMissing, DecodeError, OSError) as error:
        return str(error)
    meta, mistakes, _ = parse_meta(record.meta, "the meta that it was submitted with")
    if mistakes:
        return "\n".join(map(str, mistakes))
    if replace(meta, extra={}) != replace(definition.meta, extra={}):
        return "the meta that it was submitted with differs from that in its archive"
    if problems := _server_problems(definition, settings, folder):
        return "\n".join(["the server rejected the job:", *(f"  {problem}" for problem in problems)])
    if definition.agents:
        store.set_agents(record.id, definition.agents, record.submission)
    return ""


def meta_of(record: JobRecord) -> tuple[JobMeta, list[Problem]]:
    """Return the meta of a job that the server has accepted, with its agents; and what is wrong with it by now."""
    meta, problems, _ = parse_meta(record.meta)
    return replace(meta, agents=record.agents), problems


def _server_problems(definition: JobDefinition, settings: SiteSettings, folder: RunFolder) -> list[Problem]:
    """Return what keeps the job's app from running at the server."""
    app = definition.apps[definition.meta.app_for(SERVER) or ""]
    if app.server is None:
        return []
    builder = ComponentBuilder(settings.allow, allow_custom=settings.allow_custom, folder=folder.path)
    problems = builder.check_side(app.server, CustomCode(app.custom, f"{app.name}/custom"))
    if app.server.task_data_filters or app.server.task_result_filters:
        text = "filters of tasks and results run at sites; move them to config_fed_client"
        problems.append(Problem(app.server.file, "", text))
    return problems
