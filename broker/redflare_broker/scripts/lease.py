"""``Lease``: by which Redis tells the process that may write from those it has replaced."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson

from redflare_broker.constants import PROTOCOL_VERSION
from redflare_broker.transport.replies import Arg

from .script import NEXT, ScriptReply

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
        args = {"instance": self.instance, "epoch": self.epoch, "name": self.name, "role": self.name, "run": self.run}
        object.__setattr__(self, "args", args)

    @classmethod
    def of_this_process(cls, name: str = "") -> Lease:
        """Make a lease that no other start of any process has; it has no epoch yet."""
        return cls(instance=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}", name=name)

    @property
    def identity(self) -> dict[str, Arg]:
        """Who has it, for people and programs that read Redis."""
        host, pid, _ = self.instance.rsplit(":", 2)
        return {"instance": self.instance, "epoch": self.epoch, "host": host, "pid": int(pid)}

    def is_of(self, pid: int) -> bool:
        """Whether the process of this number on this host has it."""
        return self.instance.startswith(f"{socket.gethostname()}:{pid}:")

    def claim(self, step: Callable[[Lease], ScriptReply]) -> ScriptReply:
        """Run the step of a first hello or join, and again with the epoch that it is given; an epoch is for life."""
        reply = step(self)
        return step(replace(self, epoch=reply.number())) if reply.status == NEXT else reply

    def heartbeat(self, interval: float, ttl_ms: int, **more: object) -> bytes:
        """Encode the value of a heartbeat's key.

        Args:
            interval: seconds between two heartbeats.
            ttl_ms: how long each of them lives.
            more: further fields.
        """
        beat = {**self.identity, "interval": interval, "ttl_ms": ttl_ms, "version": PROTOCOL_VERSION}
        return orjson.dumps({**beat, **more})
