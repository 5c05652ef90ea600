"""How a job ends, by the reports of its processes and the number of sites left. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.job_store.record import ABNORMAL, ABORTED, COMPLETED, EXECUTION_EXCEPTION, LOG_TAIL, SiteState
from redflare_broker.util import humanize

from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol import job_outcome
from redflare_workers.workspace.job_report import ServerJobReport

from .run_state import RunState

#: How often a job's server that died is started again.
MAX_RESTARTS: Final = 3

_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVerdict:
    """How a job ends."""

    #: FINISHED:*
    status: str
    reason: str = ""
    by: str = "server"


def shortage(meta: JobMeta, sites: Iterable[str], failed: Mapping[str, str]) -> str:
    """Why a job cannot continue without those of its sites that have ``failed``, for these reasons; "" if it can."""
    left = [site for site in sites if site not in failed]
    if lost := [site for site in meta.mandatory_clients if site in failed]:
        return f"mandatory site failed: {_reasons(lost, failed)}"
    if len(left) >= meta.min_clients:
        return ""
    return f"too few sites left, {len(left)} of at least {meta.min_clients}: {_reasons(failed, failed)}"


def verdict_of(
    report: ServerJobReport,
    state: RunState,
    code: int = 0,
    tail: Sequence[str] = (),
    *,
    parent_restarted: bool = False,
) -> JobVerdict | None:
    """How a job ends whose server is gone; None: its server is started again, and the job resumes.

    Args:
        report: the last of its server's process.
        state: of the job, with that report.
        code: exit code of its server's process.
        tail: the end of its server's log.
        parent_restarted: its server ended because the parent was started again.
    """
    if report.status == job_outcome.COMPLETED:
        return JobVerdict(status=COMPLETED, reason=report.reason)
    if report.status == job_outcome.FAILED:
        return JobVerdict(status=EXECUTION_EXCEPTION, reason=_with_tail(report.reason, tail))
    if report.status == job_outcome.ABORTED and not report.parent_gone:
        return JobVerdict(status=ABORTED, reason=report.reason)
    # None: its app was not built, so the workflow has not begun either
    can_resume = state.resumes is not False
    if parent_restarted:
        return None if can_resume else JobVerdict(status=ABNORMAL, reason=_CANNOT_RESUME)
    died = f"the job's server died ({describe_exit(code)})"
    if can_resume and state.restarts < MAX_RESTARTS:
        return None
    if can_resume:
        died += f"; giving up after {state.restarts} restarts"
    return JobVerdict(status=EXECUTION_EXCEPTION, reason=_with_tail(died, tail))


_CANNOT_RESUME: Final = "the server was stopped while the job ran, and its workflow cannot resume"


def confirmations(server: str, sites: Mapping[str, SiteState], silent: Collection[str]) -> str:
    """Say how the process of an aborted job ended at the server and at each site, and which sites are ``silent``."""
    by_how: dict[str, list[str]] = {server or NOT_RUNNING: ["server"]}
    for name, state in sites.items():
        agents = f" ({state.agents_left})" if state.agents_left else ""
        by_how.setdefault(state.how or NOT_RUNNING, []).append(name + agents)
    parts = [f"{how} at {', '.join(names)}" for how, names in by_how.items()]
    if silent:
        parts.append(f"no reply from {', '.join(sorted(silent))}, aborted there on reconnect")
    return "confirmed: " + "; ".join(parts)


def _reasons(names: Iterable[str], failed: Mapping[str, str]) -> str:
    return humanize.first([f"{name}: {failed[name]}" for name in names], _NAMED, "; ", "; ")


def _with_tail(reason: str, tail: Sequence[str]) -> str:
    return "\n".join([reason, LOG_TAIL, *tail]) if tail else reason
