"""A test bench for the scripts of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import Keys
from redflare_broker.scripts import cell_scripts
from redflare_broker.scripts.cell_scripts import entries_of, sender_values
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import Script, ScriptReply, common_values, run_pipeline
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply


class CellBench:
    """One cell, its scripts, and the newest instance that holds it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.keys = Keys().cell("site-1.job-1")
        #: whose inbox the entries are written into
        self.sender = "site-2"
        self.inbox = self.keys.inbox(self.sender)
        values = sender_values(self.keys, self.sender, "PUBLISH", RetentionPolicy().retention_ms)
        self._values = values | common_values(self.keys, RetentionPolicy())
        self.lease = self.start("x:1:1")

    def start(self, instance: str) -> Lease:
        """Let an instance take the cell over."""
        return Lease(instance=instance, epoch=self.hello(Lease(instance=instance)).number())

    def hello(self, lease: Lease) -> ScriptReply:
        return lease.claim(lambda claimed: self.run(cell_scripts.HELLO, claimed, host="x", pid=1))

    def run(self, script: Script, lease: Lease, *rest: Arg, inboxes: Sequence[str] = (), **values: Arg) -> ScriptReply:
        return script.run(self.connection, self._values, rest, inboxes, **lease.args, **values)

    def beat(self, lease: Lease) -> ScriptReply:
        return self.run(cell_scripts.BEAT, lease, inboxes=[self.inbox], beat="{}", beat_ttl_ms=60_000)

    def bye(self, lease: Lease) -> ScriptReply:
        return self.run(cell_scripts.BYE, lease, inboxes=[self.inbox])

    def settle(self, lease: Lease, *entries: str) -> ScriptReply:
        inboxes, arguments = entries_of([(self.inbox, entry) for entry in entries])
        return self.run(cell_scripts.SETTLE, lease, *arguments, inboxes=inboxes)

    def bury(self, lease: Lease, entry: str) -> ScriptReply:
        return self.run(cell_scripts.BURY, lease, entry=entry, reason="why")

    def post(self) -> str:
        """Write an entry into the inbox."""
        return cast("bytes", self._call(cell_scripts.POST.command(self._values, ("x", "1")))).decode()

    def reply(self, most: int = 10) -> str | None:
        """Write a reply into the inbox; None: nobody would read it."""
        limits = {"most": most, "most_dead": most, "most_unknown": most, "beat_ttl_ms": 60_000}
        entry = self._call(cell_scripts.REPLY.command(self._values, ("x", "1"), **limits))
        return entry.decode() if isinstance(entry, bytes) else None

    def still_posted(self, *entries: str) -> list[int]:
        return cast("list[int]", self._call(cell_scripts.STILL_POSTED.command(self._values, entries)))

    def entries(self) -> list[str]:
        """Ids of the entries."""
        found = cast("list[list[bytes]]", self.connection.call("XRANGE", self.inbox, "-", "+"))
        return [entry[0].decode() for entry in found]

    def _call(self, command: list[Arg]) -> RedisReply:
        return run_pipeline(self.connection, [command])[0]
