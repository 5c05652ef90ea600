"""What components of a run call their engine: contexts, events, and each other by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .apis.fl_component import FLComponent
from .apis.fl_constant import FLContextKey, ReservedKey
from .apis.fl_context import FLContext, FLContextManager
from .apis.signal import Signal
from .messaging.job_messaging import JobMessaging
from .messaging.messenger import Messenger

logger = logging.getLogger(__name__)


class RunEngine(JobMessaging):
    """The part of an engine that the server's and a site's have in common.

    Args:
        identity: name of the server or the site.
        job_id: id of the job that runs.
        job_meta: what the job says of itself; a dict.
        process_type: one of ``ProcessType``.
        components: further components by id, which hear events.
    """

    def __init__(
        self,
        identity: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        process_type: str,
        components: Mapping[str, object],
    ) -> None:
        self.identity = identity
        self.job_id = job_id
        #: ends the whole run when it is triggered; its value is the reason
        self.abort_signal = Signal()
        #: aux messages and object streams; opened by the job, with its cell
        self.messenger = Messenger(self, identity, self.find_peer)
        self._components = dict(components)
        self._contexts = FLContextManager(
            engine=self,
            identity_name=identity,
            job_id=job_id,
            private_stickers={
                FLContextKey.JOB_META: dict(job_meta),
                ReservedKey.RUN_ABORT_SIGNAL: self.abort_signal,
                ReservedKey.PROCESS_TYPE: process_type,
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

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Hand an event to every component, once if it has several ids; what one raises is kept from the others."""
        told: set[int] = set()
        for component_id, component in list(self._components.items()):
            if not isinstance(component, FLComponent) or id(component) in told:
                continue
            told.add(id(component))
            try:
                component.handle_event(event_type, fl_ctx)
            except (Exception, SystemExit):
                logger.exception("%s: component %r failed on event %s", self.identity, component_id, event_type)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity} of {self.job_id}: {sorted(self._components)}>"
