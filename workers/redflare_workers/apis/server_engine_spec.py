"""``ServerEngineSpec``: the interface of a server process for the components of its job. After NVFlare's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from .client import Client
from .fl_context import FLContext
from .workspace import Workspace


class ServerEngineSpec(ABC):
    """The process that a controller runs in; ``fl_ctx.get_engine()`` returns it."""

    @abstractmethod
    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hand an event to every component of this process."""

    @abstractmethod
    def get_clients(self) -> list[Client]:
        """Return the clients that have joined."""

    @abstractmethod
    def watch_clients(self, fn: Callable[[], object]) -> AbstractContextManager[object]:
        """Have ``fn`` called whenever a client joins or leaves, until the context ends.

        It is called from any thread and must not block: set an event, for example.
        """

    @abstractmethod
    def new_context(self) -> FLContext:
        """Make a context with the sticky props of the run."""

    @abstractmethod
    def get_workspace(self) -> Workspace:
        """Return the folders for files of the job."""

    @abstractmethod
    def add_component(self, component_id: str, component: object) -> None:
        """Add a component.

        Raises:
            TypeError: the id is not a str.
            ValueError: another component has that id.
        """

    @abstractmethod
    def get_component(self, component_id: str) -> object:
        """Return the component of that id, or None."""

    def persist_components(self, fl_ctx: FLContext, completed: bool) -> None:
        """Do nothing; controllers written for NVFlare call it. ``Controller.checkpoint`` saves state."""
        return

    def validate_targets(self, target_names: Iterable[str]) -> tuple[list[Client], list[str]]:
        """Split names into the clients that have joined, and the names that have not."""
        clients = {client.name: client for client in self.get_clients()}
        # a dict, because each counts once and their order is kept
        names = list(dict.fromkeys(target_names))
        return [clients[name] for name in names if name in clients], [name for name in names if name not in clients]
