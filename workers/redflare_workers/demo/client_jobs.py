"""The client jobs of all sites of the demo, in one process; in production, each site has a machine of its own.

Run as ``python -m redflare_workers.demo.client_jobs SCRATCH``. Each hands the server's tasks to its site's agent.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.ipc.exchanger import IPCExchanger

from .lifeline import Lifeline
from .settings import DemoSettings


def main() -> None:
    """Take part in the job until it ends, or the demo is gone."""
    settings = DemoSettings.load(sys.argv[1])
    host = CellHost("demo-sites", settings.job_id, redis_url=settings.url)
    jobs = [
        ClientJob(
            site,
            IPCExchanger(redis_url=settings.url, site_name=site, agent_id=settings.job_id),
            job_id=settings.job_id,
            host=host,
        )
        for site in settings.sites
    ]

    def end() -> None:
        for job in jobs:
            job.stop("the demo has ended")

    with (
        Lifeline(end, settings.scratch),
        host,
        ThreadPoolExecutor(len(jobs)) as pool,
    ):
        for run in [pool.submit(job.run) for job in jobs]:
            run.result()


if __name__ == "__main__":
    main()
