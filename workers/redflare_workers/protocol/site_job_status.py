"""``ClientStatus``: how far a job has come at a site; values and words are NVFlare's."""

from __future__ import annotations

from enum import IntEnum


class ClientStatus(IntEnum):
    """How far a job has come at a site."""

    #: it may be deployed
    NOT_STARTED = 0
    #: its process was launched
    STARTING = 1
    #: it takes part
    STARTED = 2
    #: it has ended, or was aborted
    STOPPED = 3
    #: its process has failed
    EXCEPTION = 4

    @property
    def label(self) -> str:
        """``"not started"``, ``"starting"``, ..."""
        return self.name.lower().replace("_", " ")

    @property
    def live(self) -> bool:
        """Whether a process runs, or should."""
        return self in (ClientStatus.STARTING, ClientStatus.STARTED)
