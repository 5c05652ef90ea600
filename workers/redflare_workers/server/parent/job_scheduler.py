"""Which job can run on which sites now, and why another cannot. A pure function: nothing is sent or waited for.

Jobs are considered in the order in which they were submitted. One that waits for sites that are not connected holds up
no other; one whose sites are busy keeps its claim to what becomes free, so that smaller jobs cannot starve it.
An agent has one job at a time: a second one would take its link over, and break off its task for the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from redflare_broker.util import humanize

from redflare_workers.jobs.job_meta import JobMeta

#: Names of sites in a reason, before it counts the rest.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulableSite:
    """A site that jobs can run on."""

    name: str
    #: Its resources, by name; None: it declares none, and takes any job.
    capacity: Mapping[str, float] | None = None
    #: Whether its client parent is connected.
    alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A job that has not begun."""

    id: str
    meta: JobMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedJob:
    """A job that runs, and its sites."""

    id: str
    meta: JobMeta
    sites: tuple[str, ...]
    #: whether further sites may join it
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePlan:
    """The jobs to begin now, and those that wait."""

    #: sites of each job that begins, by its id, in their order
    begin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: why each of the others does not, by its id
    waiting: Mapping[str, str] = field(default_factory=dict)
    #: sites that join a job that runs, by its id
    join: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def plan(
    candidates: Sequence[Candidate],
    sites: Iterable[SchedulableSite],
    running: Iterable[PlacedJob] = (),
    *,
    max_jobs: int = 0,
) -> SchedulePlan:
    """Decide which jobs begin, and why the others wait.

    Args:
        candidates: the jobs that wait, oldest first.
        sites: all that are known.
        running: jobs that have begun.
        max_jobs: how many may run at once; 0: any number.
    """
    table, placed_jobs = _Table(sites), list(running)
    ongoing = len(placed_jobs)
    for placed in placed_jobs:
        table.take(placed.id, placed.meta, placed.sites)
    begin: dict[str, tuple[str, ...]] = {}
    waiting: dict[str, str] = {}
    for candidate in candidates:
        if max_jobs and ongoing >= max_jobs:
            waiting[candidate.id] = f"waiting for a slot: {ongoing} of at most {max_jobs} jobs are running"
            continue
        chosen, reason = table.choose(candidate.meta)
        if reason:
            waiting[candidate.id] = reason
        else:
            begin[candidate.id] = chosen
            ongoing += 1
        # for one that waits: a claim to what becomes free
        table.take(candidate.id, candidate.meta, chosen)
    # last: one that waits comes before one that runs already
    join = {placed.id: joining for placed in placed_jobs if placed.is_open and (joining := table.join(placed))}
    return SchedulePlan(begin=begin, waiting=waiting, join=join)


class _Table:
    """The sites, and what is free at each."""

    def __init__(self, sites: Iterable[SchedulableSite]) -> None:
        self._sites = {site.name: site for site in sites}
        self._free = {site.name: dict(site.capacity or {}) for site in self._sites.values()}
        #: the job that has an agent, by site and name
        self._agents: dict[tuple[str, str], str] = {}

    def take(self, job: str, meta: JobMeta, sites: Iterable[str]) -> None:
        """Reserve a job's share of these sites."""
        for site in sites:
            for agent in meta.agents_at(site):
                self._agents.setdefault((site, agent), job)
            free = self._free.get(site, {})
            for what, amount in meta.resources_for(site).items():
                if what in free:
                    free[what] -= amount

    def choose(self, meta: JobMeta) -> tuple[tuple[str, ...], str]:
        """Choose sites for a job: those that it begins on and ""; or those that it claims, and why it waits."""
        wanted = self._wanted(meta)
        here = [site for site in wanted if site in self._sites and self._sites[site].alive]
        lacks = {site: text for site in here if (text := self._lack(meta, site))}
        fit = [site for site in here if site not in lacks]
        missing = [site for site in meta.mandatory_clients if site not in fit]
        if not missing and len(fit) >= meta.min_clients:
            return tuple(fit), ""
        able = [site for site in here if site not in lacks or not self._too_small(meta, site)]
        enough = len(able) >= meta.min_clients and set(meta.mandatory_clients) <= set(able)
        claims = tuple(able) if enough else ()
        if missing:
            return claims, f"waiting for {self._of_mandatory(missing, lacks)}"
        absent = [site for site in wanted if site not in here]
        return claims, _too_few(meta.min_clients, fit, absent, lacks)

    def join(self, placed: PlacedJob) -> tuple[str, ...]:
        """Choose sites that a running job was not given to, and reserve its share of them."""
        here = [site for site in self._wanted(placed.meta) if site in self._sites and self._sites[site].alive]
        joining = tuple(site for site in here if site not in placed.sites and not self._lack(placed.meta, site))
        self.take(placed.id, placed.meta, joining)
        return joining

    def _wanted(self, meta: JobMeta) -> list[str]:
        """The sites that a job is for."""
        named = meta.named_clients
        return sorted(self._sites) if named is None else list(named)

    def _lack(self, meta: JobMeta, site: str) -> str:
        """Why a site cannot take a job (agent busy, resource short); "" if it can."""
        for agent in sorted(meta.agents_at(site)):
            if other := self._agents.get((site, agent)):
                return f"agent {agent} of {site} is busy with job {other}"
        capacity = self._sites[site].capacity
        if capacity is None:
            return ""
        for what, amount in sorted(meta.resources_for(site).items()):
            free = max(self._free[site].get(what, 0), 0)
            if amount > capacity.get(what, 0):
                return f"{site} has {capacity.get(what, 0):g} {what} in total, the job needs {amount:g}"
            if amount > free:
                return f"{site} has {free:g} of {capacity[what]:g} {what} free, the job needs {amount:g}"
        return ""

    def _too_small(self, meta: JobMeta, site: str) -> bool:
        capacity = self._sites[site].capacity
        return capacity is not None and any(
            amount > capacity.get(what, 0) for what, amount in meta.resources_for(site).items()
        )

    def _of_mandatory(self, missing: Sequence[str], lacks: Mapping[str, str]) -> str:
        reasons = []
        for site in missing:
            if site in lacks:
                reasons.append(f"{site} (mandatory: {lacks[site]})")
            elif site in self._sites:
                reasons.append(f"{site} (mandatory, disconnected)")
            else:
                reasons.append(f"{site} (mandatory, never connected)")
        return ", ".join(reasons)


def _too_few(wanted: int, fit: Sequence[str], absent: Sequence[str], lacks: Mapping[str, str]) -> str:
    text = f"waiting for sites: {len(fit)} of at least {wanted} can take the job"
    if fit:
        text += f" ({_some(fit)})"
    if absent:
        text += f"; not connected: {_some(absent)}"
    if lacks:
        text += f"; {_some(list(lacks.values()), '; ')}"
    return text


def _some(names: Sequence[str], between: str = ", ") -> str:
    return humanize.first(names, _NAMED, between, between)
