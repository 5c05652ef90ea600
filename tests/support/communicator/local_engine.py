"""A server engine without a server: contexts, clients and events in this process, for tests of workflows."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext, FLContextManager
from redflare_workers.apis.server_engine_spec import ServerEngineSpec
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.workspace import Workspace
from redflare_workers.engine.client_listeners import ClientListeners


class LocalEngine(ServerEngineSpec):
    """Clients join by ``join``; components receive events, and ``events`` lists the types of all that were fired.

    Args:
        clients: names of clients that have joined already.
        job_meta: the value of ``JOB_META``.
        workspace: folder for the job's files; a temporary one is created on demand.
    """

    def __init__(
        self,
        clients: Iterable[str] = (),
        *,
        job_id: str = "job-1",
        job_meta: dict[str, Any] | None = None,
        workspace: str = "",
    ) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._watch = ClientListeners()
        self._components: dict[str, object] = {}
        #: ends the run; panics trigger it
        self.abort_signal = Signal()
        #: types of the events that were fired, in order
        self.events: list[str] = []
        #: reasons of all panics
        self.panics: list[str] = []
        stickers: dict[str, Any] = {"__run_abort_signal__": self.abort_signal}
        if job_meta is not None:
            stickers["__job_meta__"] = job_meta
        self._contexts = FLContextManager(self, "server", job_id, private_stickers=stickers)
        for name in clients:
            self.join(name)

    def join(self, name: str) -> Client:
        """Return the client of that name, after it has joined."""
        with self._lock:
            client = self._clients.setdefault(name, Client(name, f"token-of-{name}"))
        self._watch.changed()
        return client

    def leave(self, name: str) -> None:
        """Remove a client from the job."""
        with self._lock:
            self._clients.pop(name, None)
        self._watch.changed()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append(event_type)
        if event_type == "_fatal_system_error":
            reason = str(fl_ctx.get_prop("__event_data__"))
            self.panics.append(reason)
            self.abort_signal.trigger(reason)
        for component in list(self._components.values()):
            if isinstance(component, FLComponent):
                component.handle_event(event_type, fl_ctx)

    def get_clients(self) -> list[Client]:
        with self._lock:
            return list(self._clients.values())

    def watch_clients(self, fn: Callable[[], object]) -> AbstractContextManager[None]:
        return self._watch.watching(fn)

    def new_context(self) -> FLContext:
        return self._contexts.new_context()

    def get_workspace(self) -> Workspace:
        with self._lock:
            if not self._workspace:
                self._workspace = tempfile.mkdtemp(prefix="redflare-local-engine-")
            return Workspace(self._workspace, "server")

    def add_component(self, component_id: str, component: object) -> None:
        if not isinstance(component_id, str):
            raise TypeError(f"component_id must be a str, but got {type(component_id).__name__}")
        if component_id in self._components:
            raise ValueError(f"there is a component {component_id!r} already")
        self._components[component_id] = component

    def get_component(self, component_id: str) -> object:
        return self._components.get(component_id)
