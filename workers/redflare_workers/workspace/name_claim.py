"""``claim_name``: a server or a site that is started does not replace one that is alive, unless it is told to."""

from __future__ import annotations

from collections.abc import Callable

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.cell_heartbeat import living_holder, name_taken, read_heartbeat

from .workspace_lock import WorkspaceHold


def claim_name(cell: Cell, what: str, hold: WorkspaceHold, pause: Callable[[float], bool], *, take_over: bool) -> None:
    """Make sure that no living process holds a cell, before it is taken over; a killed one need not be stopped.

    The last process of the same workspace has ended, since this one has the lock; another one is watched until its next
    heartbeat is overdue.

    Args:
        what: "server server", "site site-1".
        pause: as of ``living_holder``.
        take_over: replace it, alive or not.

    Raises:
        NameTaken: one does; it says which.
        Unavailable: ``pause`` ended it.
    """
    if not take_over:
        with cell.server.borrow(cell.keys.heartbeat) as connection:
            holder = living_holder(lambda: read_heartbeat(connection, cell.keys), pause, gone=hold.last)
        if holder is not None:
            raise name_taken(what, holder)
    hold.note(cell.instance)
