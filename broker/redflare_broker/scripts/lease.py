"""``Lease``: by which Redis tells the process that may write from those it has replaced."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass, field
from typing import Literal

from redflare_broker.transport.replies import Arg

#: A side of a link.
Role = Literal["agent", "cj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One process's claim on a side of a link, on a cell, or on a place in a job.

    Every step names the lease it is taken under. A lease of a higher epoch fences this one.
    """

    #: ``<host>:<pid>:<8 hex digits>``, new for each start.
    instance: str
    #: Its start by Redis's clock (ms), given by the first hello or join and kept for life. 0: none yet.
    epoch: int = 0
    #: Which one, where a key has several: ``agent`` or ``cj`` of a link, the client's name in a job; "" otherwise.
    name: str = ""
    #: The run that a job's server has begun; "" for all others.
    run: str = ""
    #: Arguments of scripts; each takes those that it has.
    args: dict[str, Arg] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "args", {"instance": self.instance, "epoch": self.epoch, "name": self.name, "run": self.run}
        )

    @classmethod
    def of_this_process(cls, name: str = "") -> Lease:
        """Make a lease that no other start of any process has; it has no epoch yet."""
        return cls(instance=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}", name=name)

    @property
    def host(self) -> str:
        return self.instance.rsplit(":", 2)[0]

    @property
    def pid(self) -> int:
        return int(self.instance.rsplit(":", 2)[1])
