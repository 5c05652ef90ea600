"""The sites of a simulation, and their distribution among processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationPlan:
    """Checked arguments."""

    job_id: str
    #: Sites of each process; one part for this process if ``processes`` is 0.
    parts: tuple[tuple[str, ...], ...]
    processes: int

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites."""
        return tuple(site for part in self.parts for site in part)


def make_plan(sites: int | Sequence[str], processes: int | None, job_id: str | None) -> SimulationPlan:
    """Check the arguments and set defaults.

    Raises:
        ConfigError: an argument is wrong; the message says which.
        TypeError: ``sites`` or ``processes`` is of the wrong type.
    """
    names = _names(sites)
    if processes is None:
        # the cores that this process may use
        processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    elif isinstance(processes, bool) or not isinstance(processes, int):
        raise TypeError(f"processes must be an int, but is {processes!r}")
    elif processes < 0:
        raise ConfigError(f"processes must be 0 (threads of this process) or more, but is {processes}")
    processes = min(processes, len(names))
    job_id = FQCN.check_segment(job_id or f"sim-{secrets.token_hex(4)}", "job_id")
    return SimulationPlan(job_id=job_id, parts=divide(names, max(processes, 1)), processes=processes)


def divide(names: Sequence[str], parts: int) -> tuple[tuple[str, ...], ...]:
    """Divide names, in order, into parts whose sizes differ by one at most."""
    each, more = divmod(len(names), parts)
    divided, start = [], 0
    for number in range(parts):
        stop = start + each + (number < more)
        divided.append(tuple(names[start:stop]))
        start = stop
    return tuple(divided)


def _names(sites: int | Sequence[str]) -> list[str]:
    if isinstance(sites, bool) or not isinstance(sites, int | Sequence) or isinstance(sites, str | bytes):
        raise TypeError(f"sites must be how many there are, or a list of their names, but is {sites!r}")
    if isinstance(sites, int):
        names = [f"site-{number}" for number in range(1, sites + 1)]
    else:
        names = [check_name(site, "site name") for site in sites]
    if not names:
        raise ConfigError(f"a simulation needs at least one site, but sites is {sites!r}")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the names of sites must differ, but {doubled[0]!r} is given more than once")
    return names
