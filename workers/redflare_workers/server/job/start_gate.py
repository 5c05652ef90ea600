"""``StartGate``: holds a controller back until the sites that take part in its job have joined.

A controller that looks who is there at its start would train without a site that needs a few seconds more for its
imports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redflare_broker.job_state.awaited_sites import AwaitedSites

from redflare_workers.apis.server_engine_spec import ServerEngineSpec
from redflare_workers.apis.signal import Signal
from redflare_workers.communicator.dead_clients import MANDATORY_CLIENTS, MIN_CLIENTS

logger = logging.getLogger(__name__)

#: Seconds after which the log says again for whom the job waits.
_REMIND_AFTER: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendance:
    """Who must be there before a controller begins."""

    #: Names of the sites that the job was deployed to; none: they are not known.
    participants: tuple[str, ...] = ()
    #: How many are needed in any case, and which.
    min_clients: int = 0
    mandatory: tuple[str, ...] = ()

    @classmethod
    def of(cls, meta: Mapping[str, Any], participants: Sequence[str]) -> Attendance:
        """Read it from a job's meta; a job that was deployed needs one site unless its meta says more."""
        least = meta.get(MIN_CLIENTS)
        return cls(
            participants=tuple(participants),
            min_clients=int(bool(participants)) if least is None else int(least),
            mandatory=tuple(meta.get(MANDATORY_CLIENTS) or ()),
        )

    def missing(self, joined: Collection[str], until: int) -> AwaitedSites | None:
        """Find who is missing; None: nobody.

        Args:
            joined: names of the sites that have joined.
            until: when those that are not needed are awaited no longer, in ms; 0: they are not.
        """
        absent = [name for name in self.participants if name not in joined]
        needed = [name for name in self.mandatory if name not in joined]
        least = max(self.min_clients - len(set(joined)), len(needed))
        if until and absent:
            return AwaitedSites(sites=tuple(dict.fromkeys((*needed, *absent))), least=least, until=until)
        if least > 0:
            only = len(needed) == least
            return AwaitedSites(sites=tuple(needed if only else dict.fromkeys((*needed, *absent))), least=least)
        return None


@dataclass(slots=True, eq=False)
class StartGate:
    """``wait`` once, before the controller begins; ``expect`` from any thread."""

    #: of the job, for the log
    job: str
    attendance: Attendance
    #: seconds in which all participants are awaited; then those that are needed will do
    join_wait: float
    #: notes for people who is awaited; None: nobody any more
    note: Callable[[AwaitedSites | None], object]
    _changed: threading.Event = field(default_factory=threading.Event, init=False)

    def expect(self, participants: Sequence[str]) -> None:
        """Wait for these sites only from now on: others have failed."""
        self.attendance = replace(self.attendance, participants=tuple(participants))
        self._changed.set()

    def wait(self, engine: ServerEngineSpec, abort_signal: Signal) -> None:
        """Wait until all are there, or those that are needed and the time is over; the abort signal ends it."""
        deadline, noted, joined = time.monotonic() + self.join_wait, None, list[str]()
        until = round((time.time() + self.join_wait) * 1000)
        with abort_signal.add_callback(self._changed.set), engine.watch_clients(self._changed.set):
            while not abort_signal.triggered:
                self._changed.clear()
                joined = [client.name for client in engine.get_clients()]
                left = deadline - time.monotonic()
                awaited = self.attendance.missing(joined, until if left > 0 else 0)
                if awaited is None:
                    break
                if awaited != noted:
                    self.note(awaited)
                noted = awaited
                logger.info("%s: %s", self.job, awaited.describe(round(time.time() * 1000)))
                self._changed.wait(min(left, _REMIND_AFTER) if left > 0 else _REMIND_AFTER)
        if noted is None:
            return
        self.note(None)
        late = None if abort_signal.triggered else self.attendance.missing(joined, until)
        if late is not None:
            logger.warning("%s begins without %s, which may still join", self.job, ", ".join(late.sites))

    def __repr__(self) -> str:
        return f"<StartGate of {self.job}: {self.attendance}>"
