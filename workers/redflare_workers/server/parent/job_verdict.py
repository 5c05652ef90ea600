"""How a job ends, by what its processes have said and how many sites are left. Decisions only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.job_store.record import ABNORMAL, ABORTED, COMPLETED, EXECUTION_EXCEPTION

from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.workspace.server_job_args import ServerJobReport

from .run_state import RunState

#: How often a job's server is started again because it has died.
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
    """Why a job cannot go on with the sites that are left; "": it can.

    Args:
        sites: it was given to.
        failed: those it has failed at, and why.
    """
    left = [site for site in sites if site not in failed]
    if lost := [site for site in meta.mandatory_clients if site in failed]:
        return f"it cannot go on without {', '.join(lost)}, mandatory: {_told(lost, failed)}"
    if len(left) >= meta.min_clients:
        return ""
    return f"it cannot go on, {len(left)} of at least {meta.min_clients} sites are left: {_told(failed, failed)}"


def verdict_of(
    said: ServerJobReport, state: RunState, code: int = 0, tail: Sequence[str] = (), *, parent_restarted: bool = False
) -> JobVerdict | None:
    """How a job ends whose server is gone; None: it is started again, and goes on.

    Args:
        said: by its process.
        state: of the job, which has heard that.
        code: of its exit.
        tail: the end of its log.
        parent_restarted: it ended because its parent was started again.
    """
    if said.status == COMPLETED:
        return JobVerdict(status=COMPLETED, reason=said.reason)
    if said.status == EXECUTION_EXCEPTION:
        return JobVerdict(status=EXECUTION_EXCEPTION, reason=_with_tail(said.reason, tail))
    if said.status == ABORTED and not said.parent_gone:
        return JobVerdict(status=ABORTED, reason=said.reason)
    # one that has not got so far has not begun, either
    goes_on = state.resumes is not False
    if parent_restarted:
        return None if goes_on else JobVerdict(status=ABNORMAL, reason=_CANNOT_GO_ON)
    died = f"its server has died, {describe_exit(code)}"
    if goes_on and state.restarts < MAX_RESTARTS:
        return None
    if goes_on:
        died += f", after {state.restarts} restarts"
    return JobVerdict(status=EXECUTION_EXCEPTION, reason=_with_tail(died, tail))


_CANNOT_GO_ON: Final = "the server was stopped while the job ran, and its workflow cannot resume"


def confirmations(server: str, sites: Mapping[str, str], silent: Collection[str]) -> str:
    """Who has confirmed that a job's process is gone, and how it ended."""
    by_how: dict[str, list[str]] = {}
    for name, how in {"server": server, **sites}.items():
        by_how.setdefault(how or "not running", []).append(name)
    told = [f"{how} at {', '.join(names)}" for how, names in by_how.items()]
    if silent:
        told.append(f"no answer from {', '.join(sorted(silent))}, told to end when connected again")
    return "confirmed: " + "; ".join(told)


def _told(names: Iterable[str], failed: Mapping[str, str]) -> str:
    known = list(names)
    told = "; ".join(f"{name}: {failed[name]}" for name in known[:_NAMED])
    return told + (f"; and {len(known) - _NAMED} more" if len(known) > _NAMED else "")


def _with_tail(reason: str, tail: Sequence[str]) -> str:
    return "\n".join([reason, "the end of its log:", *tail]) if tail else reason
