"""Every change of a link's state: one typed wrapper for each Lua script ``lua/link/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import LinkKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg

from .lease import Lease, Role
from .script import Script, ScriptReply, common_values, parse_reply, run_command, run_pipeline
from .task_states import ACCEPTED

if TYPE_CHECKING:
    from redflare_broker.wire.task_entry import Entry

_LINK: Final = "link tasks results"

HELLO: Final = Script("link/hello", f"{_LINK} notice", "role instance epoch retention_ms publish")
BYE: Final = Script(
    "link/bye", f"{_LINK} heartbeat notice", "role instance epoch failed settled_ms retention_ms publish", frees=True
)
BEAT: Final = Script(
    "link/beat",
    f"{_LINK} heartbeat peer_heartbeat",
    "role instance epoch beat beat_ttl_ms retention_ms",
    optional_key="task",
    frees=True,
)
ASSIGN: Final = Script(
    "link/assign",
    f"{_LINK} task expected_task abort notice",
    "instance epoch task_id task_name expected lost size blob chunks retention_ms settled_ms publish",
    optional_key="forgotten",
    rest="fields",
)
TAKE: Final = Script("link/take", "link task", "instance epoch task_id")
REFUSE: Final = Script(
    "link/refuse",
    f"{_LINK} task dead",
    "instance epoch task_id rc reason settled_ms retention_ms dead_entries dead_value_bytes",
    frees=True,
)
SUBMIT: Final = Script(
    "link/submit", f"{_LINK} task", "instance epoch task_id submit_id rc size blob chunks", rest="fields"
)
SETTLE: Final = Script(
    "link/settle",
    f"{_LINK} task notice dead",
    "instance epoch task_id status reason settled_ms publish retention_ms dead_entries dead_value_bytes inline lent",
    frees=True,
)
ABORT: Final = Script(
    "link/abort", f"{_LINK} task abort", "instance epoch task_id reason settled_ms publish", frees=True
)
BURY: Final = Script(
    "link/bury",
    "stream dead link",
    "entry reason dead_entries dead_value_bytes retention_ms role instance epoch",
    frees=True,
)
REPLAY: Final = Script("link/replay", "dead tasks results", "letter retention_ms")
REGISTER: Final = Script("link/register", "agents", "fqcn retention_ms")
#: Trim the list of agents, and prolong its life, where agents may only add to it.
KEEP_AGENTS: Final = Script("link/keep_agents", "agents", "retention_ms", frees=True)
PREFLIGHT: Final = Script("link/preflight", "probe", "publish ttl_ms")

#: Of an operator, who has none.
_NO_LEASE: Final = Lease(instance="")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkScripts:
    """The steps of one link. Methods that end in ``_command`` are for callers that pipeline several; the others run."""

    keys: LinkKeys
    #: PUBLISH, or SPUBLISH on a cluster.
    publish: str
    policy: RetentionPolicy
    _common: dict[str, Arg] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        common = {**common_values(self.keys, self.policy), "publish": self.publish}
        object.__setattr__(self, "_common", common)

    def hello(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Take the side over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        return lease.claim(lambda claimed: HELLO.run(connection, self._common, **claimed.args))

    def bye(self, connection: Connection, lease: Lease, *, failed: bool = False) -> ScriptReply:
        """Leave; ``failed``: by a fault, so that an agent's task counts as one that it died with."""
        heartbeat = self.keys.heartbeat(lease.name)
        return BYE.run(connection, self._common, heartbeat=heartbeat, **lease.args, failed=int(failed))

    def beat_command(self, lease: Lease, beat: bytes, ttl_ms: int, task_id: str | None) -> list[Arg]:
        """Beat; a command, so that one thread can send the heartbeats of many links in one go."""
        k = self.keys
        peer: Role = "cj" if lease.name == "agent" else "agent"
        return BEAT.command(
            self._common,
            heartbeat=k.heartbeat(lease.name),
            peer_heartbeat=k.heartbeat(peer),
            **lease.args,
            beat=beat,
            beat_ttl_ms=ttl_ms,
            **({"task": k.task(task_id)} if task_id else {}),
        )

    def assign(
        self, connection: Connection, lease: Lease, entry: Entry, *, size: int, expected: str = "", lost: str = ""
    ) -> ScriptReply:
        """Put a task on the link; ``lost``: the entry in results that has, or that reports, a missing payload."""
        return run_command(connection, self.assign_command(lease, entry, size=size, expected=expected, lost=lost))

    def assign_command(
        self, lease: Lease, entry: Entry, *, size: int, expected: str = "", lost: str = "", forget: str = ""
    ) -> list[Arg]:
        """``assign`` as a command, to send together with the XREAD that waits for the result.

        ``forget``: a task settled long ago, whose ledger goes.
        """
        k = self.keys
        return ASSIGN.command(
            self._common,
            entry.fields(),
            task=k.task(entry.task_id),
            expected_task=k.task(expected or entry.task_id),
            **({"forgotten": k.task(forget)} if forget else {}),
            **lease.args,
            task_id=entry.task_id,
            task_name=entry.task_name,
            expected=expected,
            lost=lost,
            size=size,
            **_chunks(entry),
        )

    def take(self, connection: Connection, lease: Lease, task_id: str) -> ScriptReply:
        return TAKE.run(connection, self._common, task=self.keys.task(task_id), **lease.args, task_id=task_id)

    def refuse(self, connection: Connection, lease: Lease, task_id: str, rc: str, reason: str) -> ScriptReply:
        task = self.keys.task(task_id)
        return REFUSE.run(connection, self._common, task=task, **lease.args, task_id=task_id, rc=rc, reason=reason)

    def submit(
        self,
        connection: Connection,
        lease: Lease,
        entry: Entry,
        *,
        submit_id: str,
        size: int,
        before: Sequence[list[Arg]] = (),
    ) -> ScriptReply:
        """Hand a result in; ``before``: commands that run right before, in the same round trip."""
        command = SUBMIT.command(
            self._common,
            entry.fields(),
            task=self.keys.task(entry.task_id),
            **lease.args,
            task_id=entry.task_id,
            submit_id=submit_id,
            rc=entry.rc,
            size=size,
            **_chunks(entry),
        )
        return parse_reply(SUBMIT.name, run_pipeline(connection, [*before, command])[-1])

    def settle(
        self, connection: Connection, lease: Lease, task_id: str, status: str, reason: str = "", *, lent: bool = False
    ) -> ScriptReply:
        """Accept or reject a result; a rejected one goes to the dead-letter stream.

        ``lent``: its chunks may become somebody else's.
        """
        return run_command(connection, self._settle_command(lease, task_id, status, reason, lent=lent))

    def accept_command(self, lease: Lease, task_id: str) -> list[Arg]:
        """Accept a small result; a command to send behind the XREAD that waits for its entry."""
        return self._settle_command(lease, task_id, ACCEPTED, "", inline=True)

    def _settle_command(
        self, lease: Lease, task_id: str, status: str, reason: str, *, inline: bool = False, lent: bool = False
    ) -> list[Arg]:
        return SETTLE.command(
            self._common,
            task=self.keys.task(task_id),
            **lease.args,
            task_id=task_id,
            status=status,
            reason=reason,
            inline=int(inline),
            lent=int(lent),
        )

    def abort(self, connection: Connection, lease: Lease | None, task_id: str, reason: str) -> ScriptReply:
        """Abort as the CJ that has the lease, or as an operator when there is none."""
        task, lease = self.keys.task(task_id), lease or _NO_LEASE
        return ABORT.run(connection, self._common, task=task, **lease.args, task_id=task_id, reason=reason)

    def bury(self, connection: Connection, lease: Lease | None, stream: str, entry_id: str, reason: str) -> ScriptReply:
        """Move an entry to the dead-letter stream, as its reader, or as an operator when there is no lease."""
        lease = lease or _NO_LEASE
        return BURY.run(connection, self._common, stream=stream, entry=entry_id, reason=reason, **lease.args)

    def register(self, connection: Connection, agents: str) -> None:
        """Note in the federation's list of agents, which has a slot of its own, that this one was seen.

        Where steps are functions it may only add to that list; the server trims it, and prolongs its life.
        """
        if not connection.functions:
            REGISTER.run(connection, self._common, agents=agents, fqcn=self.keys.fqcn)
            return
        # a function would ask for every right to its key
        seconds, _ = cast("list[bytes]", connection.call("TIME"))
        connection.call("ZADD", agents, seconds, self.keys.fqcn)


def _chunks(entry: Entry) -> dict[str, Arg]:
    """Return what a ledger says of the payload of an entry."""
    return {"blob": entry.blob.prefix, "chunks": entry.blob.chunks} if entry.blob else {"blob": "", "chunks": 0}
