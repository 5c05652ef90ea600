"""The sites of one process: each with a client job, an exchanger and an agent, sharing one connection and one cell."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from redflare_broker.errors import RedflareError

from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.protocol.job_outcome import FENCED

from .site_agent import AGENT_ID, SiteAgent
from .site_process_args import SiteProcessArgs

logger = logging.getLogger(__name__)


class Sites:
    """Sites that take part in a job until it ends, each in its own threads.

    ``on_failure`` is called with the reason when a site ends before its job.
    """

    def __init__(self, args: SiteProcessArgs, on_failure: Callable[[str], None]) -> None:
        self._args = args
        self._on_failure = on_failure
        self._host = CellHost(args.name, args.job_id, redis_url=args.url, settings=args.settings)
        self._guard = threading.Lock()
        self._stopping = ""
        self._jobs: list[ClientJob] = []
        self._agents: list[SiteAgent] = []
        self._threads = [
            threading.Thread(target=self._take_part, args=(site,), name=f"redflare-site-{site}", daemon=True)
            for site in args.sites
        ]

    def start(self) -> None:
        """Connect, and start all sites.

        Raises:
            RedflareError: Redis cannot be used.
        """
        self._host.start()
        for thread in self._threads:
            thread.start()

    def stop(self, reason: str) -> None:
        """Stop all sites; does not wait."""
        with self._guard:
            self._stopping = reason
            jobs = list(self._jobs)
        for job in jobs:
            job.stop(reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, and close the connection; False: ``timeout`` seconds were not enough."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._host.stop()
        return True

    @property
    def busy(self) -> list[str]:
        """Sites that have ended but whose function has not returned."""
        return [agent.site for agent in self._agents if agent.busy]

    def _take_part(self, site: str) -> None:
        try:
            self._run(site)
        except RedflareError as error:
            self._on_failure(f"{site}: {error}")
        except Exception as error:
            logger.exception("%s failed", site)
            self._on_failure(f"{site}: {type(error).__name__}: {error}")

    def _run(self, site: str) -> None:
        args = self._args
        exchanger = IPCExchanger(
            agent_id=AGENT_ID,
            site_name=site,
            job_id=args.job_id,
            redis_url=args.url,
            settings=args.settings,
        )
        panics = PanicListener(lambda reason: self._on_failure(f"{site}: {reason}"))
        job = ClientJob(site, exchanger, job_id=args.job_id, host=self._host, components={"simulator": panics})

        def agent_ended(reason: str) -> None:
            # the CJ says bye to it when the job ends
            if not job.engine.abort_signal.triggered:
                self._on_failure(reason)

        agent = SiteAgent(args.train, site, args.url, args.job_id, args.settings, agent_ended)
        with self._guard:
            if self._stopping:
                return
            self._jobs.append(job)
            self._agents.append(agent)
        with agent:
            outcome = job.run()
        if outcome.status == FENCED:
            self._on_failure(f"{site}: {outcome.reason}")

    def __repr__(self) -> str:
        return f"<Sites {self._args.name}: {len(self._args.sites)} of {self._args.job_id}>"
