"""``Simulation``: starts the server and the sites, and ends all of them, whatever happens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import Server

from redflare_workers.protocol.job_outcome import JobOutcome
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow.controller import Controller

from .errors import SimulationError
from .interrupts import interrupts_to
from .outcome import SimulationOutcome
from .plan import SimulationPlan
from .progress import OnProgress, ProgressCounter
from .site_process import SiteProcess
from .site_process_args import SiteProcessArgs, check_not_importing
from .sites import Sites

if TYPE_CHECKING:
    from .site_process_args import Train

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Controller)

#: Seconds in which sites should see that their job has ended, before they are stopped in another way.
_JOB_END_TIMEOUT: Final = 2.0
#: Seconds between two checks that the embedded server runs: its end raises no event.
_SERVER_CHECK_INTERVAL: Final = 1.0
#: Seconds in which the controller should heed its abort signal, and its job notify all sites.
_ABORT_TIMEOUT: Final = 10.0


class Simulation(Generic[C]):
    """One simulation; a context manager that is used once."""

    def __init__(
        self, plan: SimulationPlan, controller: C, train: Train, url: str | None, settings: LinkSettings
    ) -> None:
        check_not_importing()
        if not isinstance(controller, Controller):
            raise TypeError(f"controller must be a Controller, but is a {type(controller).__name__}")
        if not callable(train):
            raise TypeError(f"train must be a function of a task and a site's name, but is {train!r}")
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
        self._ending.enter_context(interrupts_to(lambda: self._events.put("interrupt")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            self._check(self._url)
        self._job = ServerJob(
            self._controller,
            redis_url=self._url,
            job_id=self._plan.job_id,
            job_meta=job_meta,
            components={**components, "simulator": counter},
            settings=self._settings,
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

    def _check(self, url: str) -> None:
        """Raise now, rather than wait for a server that cannot be used."""
        with Server.connect(url, self._settings.connection) as server:
            check(server, allow_eviction=self._settings.allow_eviction)

    # -- begin ---------------------------------------------------------------------------------------------------------

    def _start_sites(self) -> None:
        for number, part in enumerate(self._plan.parts, start=1):
            args = self._args(f"simulator-{number}", part)
            if self._plan.processes:
                self._processes.append(SiteProcess(args, self._on_failure))
            else:
                self._local = Sites(args, self._on_failure)
                self._local.start()

    def _args(self, name: str, sites: tuple[str, ...]) -> SiteProcessArgs:
        assert self._url is not None
        return SiteProcessArgs(
            name=name,
            url=self._url,
            job_id=self._plan.job_id,
            sites=sites,
            settings=self._settings,
            train=self._train,
        )

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
