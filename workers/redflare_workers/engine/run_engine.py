"""What components of a run call their engine: contexts, events, and each other by name."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any, Final

from redflare_workers.apis.fl_component import EventHandler, FLComponent
from redflare_workers.apis.fl_constant import FLContextKey, ReservedKey
from redflare_workers.apis.fl_context import FLContext, FLContextManager
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.workspace import Workspace
from redflare_workers.messaging.job_messaging import JobMessaging
from redflare_workers.messaging.messenger import Messenger

logger = logging.getLogger(__name__)

#: What a handler may overwrite by firing or logging, and what the next one is to find as it was.
_OF_EVENT: Final = (
    FLContextKey.EVENT_ID,
    FLContextKey.EVENT_DATA,
    FLContextKey.EVENT_ORIGIN,
    FLContextKey.EVENT_SCOPE,
)
#: How deep handlers may fire events in the context of an event.
_DEEPEST: Final = 20
_DEPTH: Final = "redflare_event_depth"


class RunEngine(JobMessaging):
    """The part of an engine that the server's and a site's have in common.

    Args:
        identity: name of the server or the site.
        job_id: id of the job that runs.
        job_meta: what the job says of itself; a dict.
        process_type: one of ``ProcessType``.
        components: further components by id, which hear events.
        workspace: root of the folders for what components write.
    """

    def __init__(
        self,
        identity: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        process_type: str,
        components: Mapping[str, object],
        workspace: str | os.PathLike[str] = ".",
    ) -> None:
        self.identity = identity
        self.job_id = job_id
        #: ends the whole run when it is triggered; its value is the reason
        self.abort_signal = Signal()
        #: aux messages and object streams; opened by the job, with its cell
        self.messenger = Messenger(self, identity, self.find_peer)
        self._components = dict(components)
        self._workspace = Workspace(workspace, identity)
        self._contexts = FLContextManager(
            engine=self,
            identity_name=identity,
            job_id=job_id,
            private_stickers={
                FLContextKey.JOB_META: dict(job_meta),
                ReservedKey.RUN_ABORT_SIGNAL: self.abort_signal,
                ReservedKey.PROCESS_TYPE: process_type,
                ReservedKey.WORKSPACE_OBJECT: self._workspace,
                ReservedKey.WORKSPACE_ROOT: os.path.abspath(workspace),
                ReservedKey.APP_ROOT: os.path.join(os.path.abspath(workspace), job_id, f"app_{identity}"),
            },
        )

    def find_peer(self, name: str) -> str | None:
        """FQCN of the cell of a peer; None: there is no such peer."""
        raise NotImplementedError

    def new_context(self) -> FLContext:
        """A context with this run's identity and sticky props; usable in a ``with``."""
        return self._contexts.new_context()

    def add_component(self, component_id: str, component: object) -> None:
        """Let a component take part in the run, from its next event on.

        Raises:
            TypeError: the id is not a str.
            ValueError: there is one of that id.
        """
        if not isinstance(component_id, str):
            raise TypeError(f"component_id must be a str, but got {type(component_id).__name__}")
        if component_id in self._components:
            raise ValueError(f"there is a component {component_id!r} already; ids must differ")
        self._components[component_id] = component

    def get_component(self, component_id: str) -> Any:
        """The component of that id, or None."""
        return self._components.get(component_id)

    def get_all_components(self) -> dict[str, object]:
        """All components by id."""
        return dict(self._components)

    def make_app_dir(self) -> None:
        """Make the folder at APP_ROOT; not in the current directory, which as a rule nobody has chosen."""
        if os.path.abspath(self._workspace) == os.getcwd():
            return
        try:
            self._workspace.get_app_dir(self.job_id)
        except OSError as error:
            logger.warning("%s: the folder of job %s cannot be made: %s", self.identity, self.job_id, error)

    def get_workspace(self) -> Workspace:
        """Where components may keep files."""
        return self._workspace

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hand an event to every component; what one raises is logged and kept from the others.

        Each finds the event's data, origin and scope in the context as they were when it was fired. What was raised
        stands there too, in EXCEPTIONS, by name of the component.

        Raises:
            RuntimeError: handlers of an event fire events without an end.
        """
        # one that has several ids hears it once
        each_once = {id(component): (component_id, component) for component_id, component in self._components.items()}
        listening = [
            (component_id, component, handlers)
            for component_id, component in each_once.values()
            if isinstance(component, FLComponent) and (handlers := _handlers(component, event_type))
        ]
        if not listening:
            return
        depth = fl_ctx.get_prop(_DEPTH, 0)
        if depth > _DEEPEST:
            raise RuntimeError(f"events are fired more than {_DEEPEST} deep by their handlers, last {event_type}")
        told = [fl_ctx.get_prop(key) for key in _OF_EVENT]
        told[0] = str(uuid.uuid4())
        fl_ctx.set_prop(_DEPTH, depth + 1, private=True, sticky=False)
        for component_id, component, handlers in listening:
            for key, value in zip(_OF_EVENT, told, strict=True):
                fl_ctx.set_prop(key, value, private=True, sticky=False)
            try:
                for handler, arguments in handlers:
                    handler(event_type, fl_ctx, **arguments)
            except (Exception, SystemExit) as error:
                logger.exception("%s: component %r failed on event %s", self.identity, component_id, event_type)
                raised = {**(fl_ctx.get_prop(FLContextKey.EXCEPTIONS) or {}), component.name: error}
                fl_ctx.set_prop(FLContextKey.EXCEPTIONS, raised, private=True, sticky=False)
        fl_ctx.set_prop(_DEPTH, depth, private=True, sticky=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity} of {self.job_id}: {sorted(self._components)}>"


def _handlers(component: FLComponent, event_type: str) -> list[tuple[EventHandler, dict[str, Any]]]:
    """What a component has registered for an event, or else its ``handle_event``, if it has one of its own."""
    registered = component.get_event_handlers().get(event_type)
    if registered:
        return list(registered)
    hears = type(component).handle_event is not FLComponent.handle_event or "handle_event" in vars(component)
    return [(component.handle_event, {})] if hears else []
