"""``simulate``: a workflow with all its sites on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from redflare_broker.config.settings import LinkSettings

from redflare_workers.workflow.controller import Controller

from .outcome import SimulationOutcome
from .plan import make_plan
from .progress import OnProgress
from .simulation import Simulation

if TYPE_CHECKING:
    from .site_process_args import Train

C = TypeVar("C", bound=Controller)


def simulate(
    controller: C,
    train: Train,
    sites: int | Sequence[str] = 2,
    *,
    processes: int | None = None,
    url: str | None = None,
    job_id: str | None = None,
    job_meta: Mapping[str, Any] | None = None,
    components: Mapping[str, object] | None = None,
    settings: LinkSettings | None = None,
    on_progress: OnProgress | None = None,
) -> SimulationOutcome[C]:
    """Run a workflow with its sites in a few processes of this machine, by the code that runs distributed.

    The controller runs in a ``ServerJob`` of this process. Each site is a ``ClientJob`` with an ``IPCExchanger`` and an
    agent, in threads of one of the processes; all messages go through Redis. A script must call this below
    ``if __name__ == "__main__":``, because the processes import it. Ctrl-C ends everything.

    Args:
        controller: the workflow; holds its results afterwards.
        train: ``train(task, site)`` is called in a thread of the site for each of its tasks, and returns a
            ``TaskResult``; ``task`` is that of the agent. Processes import it, so it is a function of a module or of
            the main program, not a lambda.
        sites: number of sites (named ``site-1``, ``site-2`` and so on), or their names.
        processes: number of processes for the sites; 0: all are threads of this process, for notebooks and for
            functions that cannot be imported; None: as many as there are cores, at most one for each site.
        url: a server to use, in any form; None: an embedded one for this simulation.
        job_id: name of the job; None: a new one each time.
        job_meta: meta of the job, as in ``ServerJob``.
        components: further components of the server, by id.
        settings: of the links.
        on_progress: called with a ``Progress`` after each change, from other threads.

    Returns:
        The outcome: completed, or not, with the reason.

    Raises:
        ConfigError: a ValueError; an argument is wrong, or the function cannot be handed to other processes.
        SimulationError: a site or its process ended too early.
        RedflareError: the server cannot be used.
        KeyboardInterrupt: Ctrl-C; everything has been ended.
    """
    plan = make_plan(sites, processes, job_id)
    with Simulation(plan, controller, train, url, settings or LinkSettings()) as simulation:
        return simulation.run(job_meta or {}, components or {}, on_progress)
