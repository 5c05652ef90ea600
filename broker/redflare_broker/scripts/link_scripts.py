"""Every change of a link's state: one typed wrapper for each Lua script ``lua/link/*.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import LinkKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg

from .lease import Lease, Role
from .script import NEXT, ScriptReply, command, run, run_command
from .task_states import ACCEPTED

if TYPE_CHECKING:
    from redflare_broker.wire.task_entry import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkScripts:
    """The steps of one link. Every method runs one script on the given connection and returns its reply."""

    keys: LinkKeys
    #: PUBLISH, or SPUBLISH on a cluster.
    publish: str
    policy: RetentionPolicy

    def hello(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Take the side over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        keys = [self.keys.link, self.keys.tasks, self.keys.results, self.keys.notice]
        said = run(
            connection,
            "link/hello",
            keys,
            [lease.name, lease.instance, lease.epoch, self.policy.retention_ms, self.publish],
        )
        if said.status == NEXT:
            said = run(
                connection,
                "link/hello",
                keys,
                [lease.name, lease.instance, said.number(), self.policy.retention_ms, self.publish],
            )
        return said

    def bye(self, connection: Connection, lease: Lease) -> ScriptReply:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.heartbeat(lease.name), k.notice]
        return run(
            connection,
            "link/bye",
            keys,
            [lease.name, lease.instance, lease.epoch, p.settled_ms, p.retention_ms, self.publish],
        )

    def beat_command(self, lease: Lease, beat: bytes, ttl_ms: int, task_id: str | None) -> list[Arg]:
        """The heartbeat as a command, so that one thread can send those of many links in one go."""
        k = self.keys
        peer: Role = "cj" if lease.name == "agent" else "agent"
        keys = [k.link, k.tasks, k.results, k.heartbeat(lease.name), k.heartbeat(peer)]
        if task_id:
            keys.append(k.task(task_id))
        return command(
            "link/beat", keys, [lease.name, lease.instance, lease.epoch, beat, ttl_ms, self.policy.retention_ms]
        )

    def assign(
        self, connection: Connection, lease: Lease, entry: Entry, *, size: int, expected: str = "", lost: str = ""
    ) -> ScriptReply:
        """Put a task on the link; ``lost``: the entry in results that has, or that reports, a missing payload."""
        sent = self.assign_command(lease, entry, size=size, expected=expected, lost=lost)
        return run_command(connection, "link/assign", sent)

    def assign_command(
        self, lease: Lease, entry: Entry, *, size: int, expected: str = "", lost: str = "", forget: str = ""
    ) -> list[Arg]:
        """``assign`` as a command, to send together with the XREAD that waits for the result.

        ``forget``: a task settled long ago, whose ledger goes.
        """
        k = self.keys
        task = k.task(entry.task_id)
        keys = [k.link, k.tasks, k.results, task, k.task(expected) if expected else task, k.abort, k.notice]
        if forget:
            keys.append(k.task(forget))
        blob = entry.blob.prefix if entry.blob else ""
        args: list[Arg] = [lease.instance, lease.epoch, entry.task_id, entry.task_name, expected, lost, size, blob]
        args += [self.policy.retention_ms, self.policy.settled_ms, self.publish]
        return command("link/assign", keys, args + list(entry.fields()))

    def take_command(self, lease: Lease, task_id: str = "") -> list[Arg]:
        """Taking the open task, or only this one, as a command to send behind the XREAD that waits for its entry."""
        return command("link/take", [self.keys.link, self.keys.task("")], [lease.instance, lease.epoch, task_id])

    def take(self, connection: Connection, lease: Lease, task_id: str = "") -> ScriptReply:
        return run(
            connection, "link/take", [self.keys.link, self.keys.task("")], [lease.instance, lease.epoch, task_id]
        )

    def refuse(self, connection: Connection, lease: Lease, task_id: str, rc: str, reason: str) -> ScriptReply:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.dead]
        args: list[Arg] = [lease.instance, lease.epoch, task_id, rc, reason, p.settled_ms, p.retention_ms]
        return run(connection, "link/refuse", keys, [*args, p.dead_entries, p.dead_value_bytes])

    def submit(self, connection: Connection, lease: Lease, entry: Entry, *, submit_id: str, size: int) -> ScriptReply:
        k = self.keys
        keys = [k.link, k.tasks, k.results, k.task(entry.task_id)]
        blob = entry.blob.prefix if entry.blob else ""
        args: list[Arg] = [lease.instance, lease.epoch, entry.task_id, submit_id, entry.rc, size, blob]
        return run(connection, "link/submit", keys, args + list(entry.fields()))

    def settle(self, connection: Connection, lease: Lease, task_id: str, verdict: str, reason: str = "") -> ScriptReply:
        """Accept or reject a result; a rejected one goes to the dead-letter stream."""
        return run_command(
            connection, "link/settle", self._settle_command(lease, task_id, verdict, reason, inline=False)
        )

    def accept_command(self, lease: Lease, task_id: str) -> list[Arg]:
        """Accepting a small result, as a command to send behind the XREAD that waits for its entry."""
        return self._settle_command(lease, task_id, ACCEPTED, "", inline=True)

    def _settle_command(self, lease: Lease, task_id: str, verdict: str, reason: str, *, inline: bool) -> list[Arg]:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.notice, k.dead]
        args: list[Arg] = [lease.instance, lease.epoch, task_id, verdict, reason, p.settled_ms, self.publish]
        return command("link/settle", keys, [*args, p.retention_ms, p.dead_entries, p.dead_value_bytes, int(inline)])

    def abort(self, connection: Connection, lease: Lease | None, task_id: str, reason: str) -> ScriptReply:
        """Abort as the CJ ``lease``, or as an operator when there is none."""
        k = self.keys
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.abort]
        name, epoch = (lease.instance, lease.epoch) if lease else ("", 0)
        return run(connection, "link/abort", keys, [name, epoch, task_id, reason, self.policy.settled_ms, self.publish])

    def bury(self, connection: Connection, lease: Lease | None, stream: str, entry_id: str, reason: str) -> ScriptReply:
        """Move an entry to the dead-letter stream, as its reader ``lease``, or as an operator when there is none."""
        p = self.policy
        args: list[Arg] = [entry_id, reason, p.dead_entries, p.dead_value_bytes, p.retention_ms]
        args += [lease.name, lease.instance, lease.epoch] if lease else ["", "", 0]
        return run(connection, "link/bury", [stream, self.keys.dead, self.keys.link], args)

    def register(self, connection: Connection, agents: str) -> ScriptReply:
        """Note in the federation's list of agents, which has a slot of its own, that this one was seen."""
        return run(connection, "link/register", [agents], [self.keys.fqcn, self.policy.retention_ms])
