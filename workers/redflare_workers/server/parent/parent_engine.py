"""``ParentEngine``: the engine of the server's parent process, for messages and streams with client parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from redflare_broker.cell.cell import Cell

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import ProcessType
from redflare_workers.engine.run_engine import RunEngine

from .connected_sites import ConnectedSites


class ParentEngine(RunEngine):
    """Carries the messages of a cell that has not started yet; those that come before ``begin`` are kept.

    Args:
        components: hear SYSTEM_START and SYSTEM_END, by id; there they register handlers and stream factories.
    """

    def __init__(self, cell: Cell, sites: ConnectedSites, components: Mapping[str, object], workspace: Path) -> None:
        super().__init__(cell.fqcn, "", {}, ProcessType.SERVER_PARENT, components, workspace)
        self._sites = sites
        self._begun = False
        self.messenger.open(cell, listen=False)

    def usual_targets(self) -> list[str]:
        """All sites that are connected."""
        return [site.name for site in self._sites.connected()]

    def find_peer(self, name: str) -> str | None:
        """Return the FQCN of the cell of a site's client parent; None: the site is not connected."""
        return self._sites.cell_of(name) if self._sites.is_alive(name) else None

    def begin(self) -> None:
        """Fire SYSTEM_START, and hand messages to the handlers."""
        self._begun = True
        self._fire(EventType.SYSTEM_START)
        self.messenger.listen()

    def end(self) -> None:
        """Fire SYSTEM_END, if it has begun, and end all streams."""
        if self._begun:
            self._fire(EventType.SYSTEM_END)
        self.messenger.close()

    def _fire(self, event_type: str) -> None:
        with self.new_context() as fl_ctx:
            self.fire_event(event_type, fl_ctx)
