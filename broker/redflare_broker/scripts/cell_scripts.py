"""Every step of a cell: one typed wrapper for each script ``lua/cell/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg

from .lease import Lease
from .script import NEXT, Script, ScriptReply

HELLO: Final = Script("cell/hello", "cell inbox", "instance epoch retention_ms host pid")
BYE: Final = Script("cell/bye", "cell inbox heartbeat", "instance epoch settled_ms")
BEAT: Final = Script("cell/beat", "cell inbox heartbeat", "instance epoch beat beat_ttl_ms retention_ms")
BURY: Final = Script(
    "cell/bury", "inbox dead cell", "entry reason dead_entries dead_value_bytes retention_ms instance epoch"
)
POST: Final = Script("cell/post", "inbox", "retention_ms", rest="fields")
SETTLE: Final = Script("cell/settle", "inbox cell", "instance epoch", rest="entries")
STANDS: Final = Script("cell/stands", "inbox", rest="entries")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScripts:
    """The steps of one cell. Methods that end in ``_command`` are for callers that pipeline several."""

    keys: CellKeys
    policy: RetentionPolicy

    def hello(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Take the cell over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        reply = self._hello(connection, lease, lease.epoch)
        return self._hello(connection, lease, reply.number()) if reply.status == NEXT else reply

    def _hello(self, connection: Connection, lease: Lease, epoch: int) -> ScriptReply:
        return HELLO.run(
            connection,
            cell=self.keys.cell,
            inbox=self.keys.inbox,
            instance=lease.instance,
            epoch=epoch,
            retention_ms=self.policy.retention_ms,
            host=lease.host,
            pid=lease.pid,
        )

    def bye(self, connection: Connection, lease: Lease) -> ScriptReply:
        k = self.keys
        return BYE.run(
            connection,
            cell=k.cell,
            inbox=k.inbox,
            heartbeat=k.heartbeat,
            **lease.args,
            settled_ms=self.policy.settled_ms,
        )

    def beat_command(self, lease: Lease, beat: bytes, ttl_ms: int) -> list[Arg]:
        k = self.keys
        return BEAT.command(
            cell=k.cell,
            inbox=k.inbox,
            heartbeat=k.heartbeat,
            **lease.args,
            beat=beat,
            beat_ttl_ms=ttl_ms,
            retention_ms=self.policy.retention_ms,
        )

    def bury(self, connection: Connection, lease: Lease, entry_id: str, reason: str) -> ScriptReply:
        k, p = self.keys, self.policy
        return BURY.run(
            connection,
            inbox=k.inbox,
            dead=k.dead,
            cell=k.cell,
            entry=entry_id,
            reason=reason,
            dead_entries=p.dead_entries,
            dead_value_bytes=p.dead_value_bytes,
            retention_ms=p.retention_ms,
            **lease.args,
        )

    def holder_command(self) -> list[Arg]:
        """Read instance and epoch of the cell's holder, to ask behind each read of the inbox."""
        return ["HMGET", self.keys.cell, "instance", "epoch"]

    def post_command(self, inbox: str, fields: list[str | bytes | int | memoryview]) -> list[Arg]:
        """Put a message into any cell's inbox."""
        return POST.command(fields, inbox=inbox, retention_ms=self.policy.retention_ms)

    def settle_command(self, lease: Lease, entry_ids: Sequence[str]) -> list[Arg]:
        """Delete entries of the own inbox that were dealt with; those of an instance that was replaced stay."""
        return SETTLE.command(entry_ids, inbox=self.keys.inbox, cell=self.keys.cell, **lease.args)

    def stands_command(self, inbox: str, entry_ids: list[str]) -> list[Arg]:
        """Ask which of these entries are in a cell's inbox, without reading them."""
        return STANDS.command(entry_ids, inbox=inbox)
