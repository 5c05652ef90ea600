"""Every step of a cell: one typed wrapper for each script ``lua/cell/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg

from .link_scripts import NEXT, ScriptReply, command, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One process's hold on a cell."""

    #: ``<host>:<pid>:<8 hex digits>``, new for each start.
    name: str
    #: Its start by Redis's clock (ms), given by the first hello and kept; a higher one has taken over. 0: none yet.
    epoch: int = 0

    @property
    def host(self) -> str:
        return self.name.rsplit(":", 2)[0]

    @property
    def pid(self) -> int:
        return int(self.name.rsplit(":", 2)[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScripts:
    """The steps of one cell. What ends in ``_command`` is for callers that pipeline several."""

    keys: CellKeys
    policy: RetentionPolicy

    def hello(self, connection: Connection, me: Tenant) -> ScriptReply:
        """Take the cell over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        keys = [self.keys.cell, self.keys.inbox]
        rest: list[Arg] = [self.policy.retention_ms, me.host, me.pid]
        said = run(connection, "cell/hello", keys, [me.name, me.epoch, *rest])
        if said.status == NEXT:
            said = run(connection, "cell/hello", keys, [me.name, said.number(), *rest])
        return said

    def bye(self, connection: Connection, me: Tenant) -> ScriptReply:
        keys = [self.keys.cell, self.keys.inbox, self.keys.heartbeat]
        return run(connection, "cell/bye", keys, [me.name, me.epoch, self.policy.settled_ms])

    def beat_command(self, me: Tenant, beat: bytes, ttl_ms: int) -> list[Arg]:
        keys = [self.keys.cell, self.keys.inbox, self.keys.heartbeat]
        return command("cell/beat", keys, [me.name, me.epoch, beat, ttl_ms, self.policy.retention_ms])

    def bury(self, connection: Connection, me: Tenant, entry_id: str, reason: str) -> ScriptReply:
        k, p = self.keys, self.policy
        args: list[Arg] = [entry_id, reason, p.dead_entries, p.dead_value_bytes, p.retention_ms, me.name, me.epoch]
        return run(connection, "cell/bury", [k.inbox, k.dead, k.cell], args)

    def holder_command(self) -> list[Arg]:
        """Who holds the cell: instance and epoch, to ask behind each read of the inbox."""
        return ["HMGET", self.keys.cell, "instance", "epoch"]

    def post_command(self, inbox: str, fields: list[str | bytes | int | memoryview]) -> list[Arg]:
        """Put a message into any cell's inbox."""
        return command("cell/post", [inbox], [self.policy.retention_ms, *fields])

    def settle_command(self, me: Tenant, entry_ids: Sequence[str]) -> list[Arg]:
        """Delete entries of the own inbox that were dealt with; those of an instance that was replaced stay."""
        return command("cell/settle", [self.keys.inbox, self.keys.cell], [me.name, me.epoch, *entry_ids])

    def stands_command(self, inbox: str, entry_ids: list[str]) -> list[Arg]:
        """Which of these entries stand in a cell's inbox, without reading them."""
        return command("cell/stands", [inbox], list(entry_ids))
