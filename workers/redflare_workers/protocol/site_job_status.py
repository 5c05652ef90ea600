"""How far a job has come at a site; values and words are NVFlare's."""

from __future__ import annotations

from enum import IntEnum


class ClientStatus(IntEnum):
    """Of a job at a site."""

    #: it may be deployed
    NOT_STARTED = 0
    #: its process was launched
    STARTING = 1
    #: it takes part
    STARTED = 2
    #: it has come to its end, or was aborted
    STOPPED = 3
    #: its process has failed
    EXCEPTION = 4

    @property
    def label(self) -> str:
        """``"not started"``, ``"starting"``, ..."""
        return self.name.lower().replace("_", " ")

    @property
    def live(self) -> bool:
        """Whether there is, or should be, a process."""
        return self in (ClientStatus.STARTING, ClientStatus.STARTED)


def get_status_message(status: int) -> str | None:
    """The word for a status; None: it is none."""
    return ClientStatus(status).label if status in ClientStatus._value2member_map_ else None
