"""The engine of a server's job: what controllers and components ask for contexts, events and clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_constant import ProcessType
from redflare_workers.apis.server_engine_spec import ServerEngineSpec
from redflare_workers.engine.client_listeners import ClientListeners
from redflare_workers.engine.run_engine import RunEngine


class ServerEngine(RunEngine, ServerEngineSpec):
    """The engine of one job at the server.

    Args:
        clients: gives the clients that take part now.
        workspace: folder for what components write.
    """

    def __init__(
        self,
        identity: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        components: Mapping[str, object],
        clients: Callable[[], list[Client]],
        workspace: str | Path,
    ) -> None:
        super().__init__(identity, job_id, job_meta, ProcessType.SERVER_JOB, components, workspace)
        self._clients = clients
        #: gives the FQCN of the cell of a client by its name; set by the job
        self.cell_of: Callable[[str], str | None] = lambda name: None
        self._watch = ClientListeners()

    def get_clients(self) -> list[Client]:
        """The clients that take part now, in the order in which they joined."""
        return self._clients()

    def usual_targets(self) -> list[str]:
        """All clients."""
        return [client.name for client in self.get_clients()]

    def find_peer(self, name: str) -> str | None:
        """FQCN of the cell of a client; None: it has not joined."""
        return self.cell_of(name)

    def watch_clients(self, fn: Callable[[], object]) -> AbstractContextManager[None]:
        """Have ``fn`` called whenever a client joins or leaves, until the context ends."""
        return self._watch.watching(fn)

    def clients_changed(self) -> None:
        """For the job: a client has joined, or left."""
        self._watch.changed()
