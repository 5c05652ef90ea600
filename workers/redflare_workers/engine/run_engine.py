"""``RunEngine``: the engine that components of a run use: contexts, events, and other components by name."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redflare_workers.apis.fl_component import EventHandler, FLComponent, components_in
from redflare_workers.apis.fl_constant import FLContextKey, ReservedKey
from redflare_workers.apis.fl_context import FLContext, FLContextManager
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.workspace import Workspace
from redflare_workers.messaging.job_messaging import JobMessaging
from redflare_workers.messaging.messenger import Messenger

logger = logging.getLogger(__name__)

#: Props that a handler may overwrite by firing or logging, and that are restored for the next one.
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
        process_type: one of ``ProcessType``.
        components: further components by id. They hear events, and so do those in arguments of their constructors.
        workspace: root of the folders for files of components.
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
        self._components: dict[str, object] = {}
        #: The components that hear events, each once however many hold it; by identity, with a name for the log.
        self._listening: dict[int, tuple[str, FLComponent]] = {}
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

        for component_id, component in components.items():
            self._add(component_id, component)

    def find_peer(self, name: str) -> str | None:
        """Return the FQCN of a peer's cell; None: no peer has that name."""
        raise NotImplementedError

    def new_context(self) -> FLContext:
        """Make a context with this run's identity and sticky props; usable in a ``with``."""
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
            raise ValueError(f"component {component_id!r} exists already; ids must differ")
        self._add(component_id, component)

    def _add(self, component_id: str, component: object) -> None:
        self._components[component_id] = component
        for each in components_in(component):
            name = component_id if each is component else f"{component_id}/{each.name}"
            self._listening.setdefault(id(each), (name, each))

    def get_component(self, component_id: str) -> Any:
        """Return the component of that id, or None."""
        return self._components.get(component_id)

    def get_all_components(self) -> dict[str, object]:
        """All components by id."""
        return dict(self._components)

    def make_app_dir(self) -> None:
        """Make the folder at APP_ROOT, unless the workspace is the current directory, its default."""
        if os.path.abspath(self._workspace) == os.getcwd():
            return
        try:
            self._workspace.get_app_dir(self.job_id)
        except OSError as error:
            logger.warning("%s: cannot make the folder of job %s: %s", self.identity, self.job_id, error)

    def get_workspace(self) -> Workspace:
        """Return the workspace in which components may keep files."""
        return self._workspace

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hand an event to every component, once; an exception of one is logged, and does not reach the others.

        Each finds the event's data, origin and scope in the context as they were when it was fired. Exceptions are in
        the context's EXCEPTIONS, by name of the component.

        Raises:
            RuntimeError: handlers of an event fire events endlessly.
        """
        listening = [
            (component_id, component, handlers)
            for component_id, component in list(self._listening.values())
            if (handlers := _handlers(component, event_type))
        ]
        if not listening:
            return
        depth = fl_ctx.get_prop(_DEPTH, 0)
        if depth > _DEEPEST:
            raise RuntimeError(f"events are fired more than {_DEEPEST} deep by their handlers, last {event_type}")
        event_props = [fl_ctx.get_prop(key) for key in _OF_EVENT]
        event_props[0] = str(uuid.uuid4())
        fl_ctx.set_prop(_DEPTH, depth + 1, private=True, sticky=False)
        for component_id, component, handlers in listening:
            for key, value in zip(_OF_EVENT, event_props, strict=True):
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


def _handlers(component: FLComponent, event_type: str) -> Sequence[tuple[EventHandler, dict[str, Any]]]:
    """Return the component's handlers for an event, or its overridden ``handle_event``."""
    registered = component.get_event_handlers()
    if registered and (found := registered.get(event_type)):
        return list(found)
    handle = component.handle_event
    return () if getattr(handle, "__func__", None) is FLComponent.handle_event else [(handle, {})]
