"""Every step of a cell: one typed wrapper for each script ``lua/cell/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg

from .lease import Lease
from .script import NEXT, ScriptReply, command, run


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScripts:
    """The steps of one cell. What ends in ``_command`` is for callers that pipeline several."""

    keys: CellKeys
    policy: RetentionPolicy

    def hello(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Take the cell over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        keys = [self.keys.cell, self.keys.inbox]
        rest: list[Arg] = [self.policy.retention_ms, lease.host, lease.pid]
        said = run(connection, "cell/hello", keys, [lease.instance, lease.epoch, *rest])
        if said.status == NEXT:
            said = run(connection, "cell/hello", keys, [lease.instance, said.number(), *rest])
        return said

    def bye(self, connection: Connection, lease: Lease) -> ScriptReply:
        keys = [self.keys.cell, self.keys.inbox, self.keys.heartbeat]
        return run(connection, "cell/bye", keys, [lease.instance, lease.epoch, self.policy.settled_ms])

    def beat_command(self, lease: Lease, beat: bytes, ttl_ms: int) -> list[Arg]:
        keys = [self.keys.cell, self.keys.inbox, self.keys.heartbeat]
        return command("cell/beat", keys, [lease.instance, lease.epoch, beat, ttl_ms, self.policy.retention_ms])

    def bury(self, connection: Connection, lease: Lease, entry_id: str, reason: str) -> ScriptReply:
        k, p = self.keys, self.policy
        args: list[Arg] = [
            entry_id,
            reason,
            p.dead_entries,
            p.dead_value_bytes,
            p.retention_ms,
            lease.instance,
            lease.epoch,
        ]
        return run(connection, "cell/bury", [k.inbox, k.dead, k.cell], args)

    def holder_command(self) -> list[Arg]:
        """Who holds the cell: instance and epoch, to ask behind each read of the inbox."""
        return ["HMGET", self.keys.cell, "instance", "epoch"]

    def post_command(self, inbox: str, fields: list[str | bytes | int | memoryview]) -> list[Arg]:
        """Put a message into any cell's inbox."""
        return command("cell/post", [inbox], [self.policy.retention_ms, *fields])

    def settle_command(self, lease: Lease, entry_ids: Sequence[str]) -> list[Arg]:
        """Delete entries of the own inbox that were dealt with; those of an instance that was replaced stay."""
        return command("cell/settle", [self.keys.inbox, self.keys.cell], [lease.instance, lease.epoch, *entry_ids])

    def stands_command(self, inbox: str, entry_ids: list[str]) -> list[Arg]:
        """Which of these entries stand in a cell's inbox, without reading them."""
        return command("cell/stands", [inbox], list(entry_ids))
