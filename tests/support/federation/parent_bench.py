"""A server's parent process in a thread, on fakeredis."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import fakeredis
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.server.parent.server_parent import ServerParent

from tests.support.cell.cells import SETTINGS


class ParentBench:
    """A running SP, and its job store."""

    def __init__(self, folder: Path) -> None:
        client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        self.server = Server.connect(client=client)
        self.store = JobStore(self.server, Keys(SETTINGS.namespace))
        self.parent = ServerParent(
            folder, settings=replace(SETTINGS, job_store=JobRetentionPolicy(job_retention=77.0)), client=client
        )
        ready = threading.Event()
        self.parent.on_ready = ready.set
        self._thread = threading.Thread(target=self.parent.run, daemon=True)
        self._thread.start()
        assert ready.wait(20)

    def status(self, job: str = "job-1") -> str:
        record = self.store.get(job)
        return "" if record is None else record.status

    def close(self) -> None:
        self.parent.stop()
        self._thread.join(20)
        self.server.close()
