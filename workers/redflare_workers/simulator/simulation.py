"""``simulate``: a workflow with all its sites on this machine.

Its ``Simulation`` starts the server and the sites, and ends all of them, whatever happens.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import Server

from redflare_workers.protocol.job_outcome import JobOutcome
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.util.signals import signals_to
from redflare_workers.workflow.controller import Controller

from .outcome import SimulationError, SimulationOutcome
from .plan import SimulationPlan, make_plan
from .progress import OnProgress, ProgressCounter
from .site_agent import check_train
from .site_process import SiteProcess
from .site_process_args import SiteProcessArgs, check_not_importing
from .sites import Sites

if TYPE_CHECKING:
    from redflare_agent.serve import Train

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Controller)

#: Seconds in which sites should see that their job has ended, before they are stopped in another way.
_JOB_END_TIMEOUT: Final = 2.0
#: Seconds between two checks that the embedded server runs: its end raises no event.
_SERVER_CHECK_INTERVAL: Final = 1.0
#: Seconds in which the controller should heed its abort signal, and its job notify all sites.
_ABORT_TIMEOUT: Final = 10.0


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
        train: ``train(task)`` or ``train(task, site)`` is called in a thread of the site for each of its tasks, and
            returns a ``TaskResult``; ``task`` is that of the agent. Processes import it, so it is a function of a
            module or of the main program, not a lambda.
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
        RedflareError: Redis cannot be used.
        KeyboardInterrupt: Ctrl-C; everything has been ended.
    """
    plan = make_plan(sites, processes, job_id)
    with Simulation(plan, controller, train, url, settings or LinkSettings()) as simulation:
        return simulation.run(job_meta or {}, components or {}, on_progress)


class Simulation(Generic[C]):
    """One simulation; a context manager that is used once."""

    def __init__(
        self, plan: SimulationPlan, controller: C, train: Train, url: str | None, settings: LinkSettings
    ) -> None:
        check_not_importing()
        if not isinstance(controller, Controller):
            raise TypeError(f"controller must be a Controller, but is a {type(controller).__name__}")
        check_train(train)
        self._plan = plan
        self._controller = controller
        self._train = train
        self._url = url
        self._settings = settings
        self._began = time.monotonic()
        self._ending = ExitStack()
        self._embedded: EmbeddedServer | None = None
        self._job: ServerJob | None = None
        self._done: Future[JobOutcome] = Future()
        #: A queue, because handlers of signals may put into it.
        self._events: SimpleQueue[Literal["done", "interrupt"]] = SimpleQueue()
        self._server_thread = threading.Thread(target=self._run_job, name="redflare-simulated-server", daemon=True)
        self._local: Sites | None = None
        self._processes: list[SiteProcess] = []
        #: Reason of the first site that failed.
        self._failure: str | None = None

    def __enter__(self) -> Self:
        # only the main thread may handle signals, and a handler that is there already is the user's
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._ending.enter_context(signals_to(lambda _: self._events.put("interrupt"), signal.SIGINT))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.close()

    def run(
        self, job_meta: Mapping[str, Any], components: Mapping[str, object], on_progress: OnProgress | None
    ) -> SimulationOutcome[C]:
        """See ``simulate``."""
        counter = ProgressCounter(self._controller, len(self._plan.sites), on_progress)
        if self._url is None:
            self._embedded = self._ending.enter_context(EmbeddedServer())
            self._url = self._embedded.url
        else:
            # raises now, rather than wait for a Redis that cannot be used
            with Server.connect(self._url, self._settings.connection) as server:
                check(server, allow_eviction=self._settings.allow_eviction)
        self._job = ServerJob(
            self._controller,
            redis_url=self._url,
            job_id=self._plan.job_id,
            job_meta=job_meta,
            components={**components, "simulator": counter},
            settings=self._settings,
            participants=self._plan.sites,
        )
        self._ending.callback(self._end)
        self._server_thread.start()
        self._start_sites()
        if self._await_event() == "interrupt":
            raise KeyboardInterrupt
        outcome = self._done.result()
        self._ending.close()
        if self._failure is not None and not outcome.ok:
            raise SimulationError(self._failure)
        return SimulationOutcome(
            status=outcome.status,
            reason=outcome.reason,
            controller=self._controller,
            seconds=time.monotonic() - self._began,
            sites=len(self._plan.sites),
            results=counter.results,
            processes=self._plan.processes,
        )

    def _await_event(self) -> str:
        while True:
            try:
                return self._events.get(timeout=None if self._embedded is None else _SERVER_CHECK_INTERVAL)
            except Empty:
                # all processes would wait for it to come back
                if self._embedded is not None and not self._embedded.running:
                    log = self._embedded.log_tail()
                    raise SimulationError(f"the embedded server has ended; the end of its log:\n{log}") from None

    # -- begin ---------------------------------------------------------------------------------------------------------

    def _start_sites(self) -> None:
        assert self._url is not None
        for number, part in enumerate(self._plan.parts, start=1):
            args = SiteProcessArgs(
                name=f"simulator-{number}",
                url=self._url,
                job_id=self._plan.job_id,
                sites=part,
                settings=self._settings,
                train=self._train,
            )
            if self._plan.processes:
                self._processes.append(SiteProcess(args, self._on_failure))
            else:
                self._local = Sites(args, self._on_failure)
                self._local.start()

    def _run_job(self) -> None:
        assert self._job is not None
        try:
            self._done.set_result(self._job.run())
        except BaseException as error:  # the top of this thread; ``run`` raises it
            self._done.set_exception(error)
        self._events.put("done")

    def _on_failure(self, reason: str) -> None:
        """Abort the job: a site has failed, or a process has ended before the job."""
        assert self._job is not None
        if self._failure is None and not self._done.done():
            self._failure = reason
        self._job.abort(reason)

    # -- end -----------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """End the job, whose sites end with it; then the sites that did not."""
        if not self._done.done():
            assert self._job is not None
            self._job.abort("the simulation was interrupted")
            if self._server_thread.ident is not None:
                self._server_thread.join(_ABORT_TIMEOUT)
                if self._server_thread.is_alive():
                    logger.warning("%r has not ended yet; it is left behind", self._job)
        self._end_sites()

    def _end_sites(self) -> None:
        deadline = time.monotonic() + (_JOB_END_TIMEOUT if self._done.done() else 0)
        everyone: list[Sites | SiteProcess] = [*self._processes, *([self._local] if self._local else [])]
        for part in everyone:
            part.wait(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            process.let_end()
        for process in self._processes:
            process.stop()
        if self._local is not None:
            self._local.stop("the simulation has ended")
            if not self._local.wait(_ABORT_TIMEOUT):
                logger.warning("%r has not ended; it is left behind", self._local)
            elif busy := self._local.busy:
                logger.warning("train is still running for %s; its result will be discarded", ", ".join(busy))
