"""Every step of a cell: one typed wrapper for each script ``lua/cell/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    _common: dict[str, Arg] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        k, p = self.keys, self.policy
        common: dict[str, Arg] = {
            "cell": k.cell,
            "inbox": k.inbox,
            "heartbeat": k.heartbeat,
            "dead": k.dead,
            "retention_ms": p.retention_ms,
            "settled_ms": p.settled_ms,
            "dead_entries": p.dead_entries,
            "dead_value_bytes": p.dead_value_bytes,
        }
        object.__setattr__(self, "_common", common)

    def hello(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Take the cell over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        reply = HELLO.run(connection, self._common, **lease.args, host=lease.host, pid=lease.pid)
        if reply.status == NEXT:
            lease = replace(lease, epoch=reply.number())
            reply = HELLO.run(connection, self._common, **lease.args, host=lease.host, pid=lease.pid)
        return reply

    def bye(self, connection: Connection, lease: Lease) -> ScriptReply:
        return BYE.run(connection, self._common, **lease.args)

    def beat_command(self, lease: Lease, beat: bytes, ttl_ms: int) -> list[Arg]:
        return BEAT.command(self._common, **lease.args, beat=beat, beat_ttl_ms=ttl_ms)

    def bury(self, connection: Connection, lease: Lease, entry_id: str, reason: str) -> ScriptReply:
        return BURY.run(connection, self._common, entry=entry_id, reason=reason, **lease.args)

    def holder_command(self) -> list[Arg]:
        """Read instance and epoch of the cell's holder, to ask behind each read of the inbox."""
        return ["HMGET", self.keys.cell, "instance", "epoch"]

    def post_command(self, inbox: str, fields: list[str | bytes | int | memoryview]) -> list[Arg]:
        """Put a message into any cell's inbox."""
        return POST.command(self._common, fields, inbox=inbox)

    def settle_command(self, lease: Lease, entry_ids: Sequence[str]) -> list[Arg]:
        """Delete entries of the own inbox that were dealt with; those of an instance that was replaced stay."""
        return SETTLE.command(self._common, entry_ids, **lease.args)

    def stands_command(self, inbox: str, entry_ids: list[str]) -> list[Arg]:
        """Ask which of these entries are in a cell's inbox, without reading them."""
        return STANDS.command(self._common, entry_ids, inbox=inbox)
