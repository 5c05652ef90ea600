"""Ends or resumes what a server that stopped, or was killed, left behind: processes and open records of jobs.

Called once, before anything else: no job may stay RUNNING because a process died.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from redflare_broker.job_store.record import DISPATCHED, RUNNING, JobRecord

from redflare_workers.workspace.run_folder import RunFolder, begun_runs

from .admission import meta_of
from .job_runner import JobRunner
from .run_state import RunState
from .runner_context import RunnerContext

logger = logging.getLogger(__name__)

#: Seconds that a process has to end itself: its parent is gone, so it is about to.
_WITHIN: Final = 5.0


def reap(workspace: Path, resumed: Iterable[str]) -> list[str]:
    """End the processes of jobs that are over, not ``resumed`` by runners; return the ids of those that had one."""
    left = set(resumed)
    reaped: list[str] = []
    for folder in begun_runs(workspace):
        state = RunState.read(folder)
        if state is None or state.job in left or not state.run:
            continue
        if killed := state.mark.reap(_WITHIN if state.pid else 0.0):
            logger.warning("job %s is over: killed processes %s that it had left", state.job, killed)
            reaped.append(state.job)
    return reaped


def recover(records: Iterable[JobRecord], context: RunnerContext) -> list[JobRunner]:
    """Make a runner for each job that was dispatched or running; one that cannot resume is ended by its runner."""
    runners = []
    for record in records:
        if record.status not in (DISPATCHED, RUNNING):
            continue
        meta, problems = meta_of(record)
        if problems:
            logger.warning("the meta of job %s in the store is not valid any more: %s", record.id, problems[0])
        state = RunState.read(RunFolder(context.workspace, record.id))
        sites = tuple(state.sites) if state is not None and state.sites else tuple(record.sites)
        runners.append(JobRunner(record, meta, sites, context, recovered=True))
    return runners
