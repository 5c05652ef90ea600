"""``ServerEngine``: gives controllers and components of a server job their contexts, events and clients."""

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
        clients: returns the clients of the job.
        cell_of: returns the FQCN of the cell of a client by its name; None: it has not joined.
        workspace: folder for what components write.
    """

    def __init__(
        self,
        identity: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        components: Mapping[str, object],
        clients: Callable[[], list[Client]],
        cell_of: Callable[[str], str | None],
        workspace: str | Path,
    ) -> None:
        super().__init__(identity, job_id, job_meta, ProcessType.SERVER_JOB, components, workspace)
        self._clients = clients
        self._cell_of = cell_of
        self._listeners = ClientListeners()

    def get_clients(self) -> list[Client]:
        """Return the clients of the job, in the order in which they joined."""
        return self._clients()

    def usual_targets(self) -> list[str]:
        """All clients."""
        return [client.name for client in self.get_clients()]

    def find_peer(self, name: str) -> str | None:
        """FQCN of the cell of a client; None: it has not joined."""
        return self._cell_of(name)

    def watch_clients(self, fn: Callable[[], object]) -> AbstractContextManager[None]:
        return self._listeners.watching(fn)

    def clients_changed(self) -> None:
        """Call those that watch the clients, because one has joined or left."""
        self._listeners.changed()
