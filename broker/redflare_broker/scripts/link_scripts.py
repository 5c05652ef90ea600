"""Every change of a link's state: one typed wrapper for each Lua script in ``lua/link/``.

A script is one atomic step that answers the same when it is run twice, so a caller that lost the reply simply runs it
again. Each file's head says what its keys, arguments and answers are; ``_common.lua`` stands in front of all of them,
and a folder's own prologue (``job/_job.lua``) in front of those of that folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import ServerError
from redflare_broker.keys import LinkKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError

from . import task_states

if TYPE_CHECKING:
    from redflare_broker.wire.task_entry import Entry

Role = Literal["agent", "cj"]

#: The statuses of a task, and the other answers of the scripts.
NEW: Final = task_states.NEW
FETCHED: Final = task_states.FETCHED
SUBMITTED: Final = task_states.SUBMITTED
ACCEPTED: Final = task_states.ACCEPTED
REJECTED: Final = task_states.REJECTED
ABORTED: Final = task_states.ABORTED
DUPLICATE: Final = "DUPLICATE"
UNKNOWN: Final = "UNKNOWN"
RESEND: Final = "RESEND"
OK: Final = "OK"
OPEN: Final = "OPEN"
NEXT: Final = "NEXT"
BUSY: Final = "BUSY"
FENCED: Final = "FENCED"
LOST: Final = "LOST"
BURIED: Final = "BURIED"

#: rc of a refusal that asks the CJ for the payload once more.
BLOB_MISSING: Final = "BLOB_MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptReply:
    """What a script said: a word, and what comes with it."""

    status: str
    rest: tuple[RedisReply, ...] = ()

    def text(self, index: int = 0) -> str:
        """The element after the word as text; "" where there is none."""
        value = self.rest[index] if index < len(self.rest) else None
        if value is None:
            return ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def number(self, index: int = 0) -> int:
        return int(self.text(index) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One process's hold on its side of a link."""

    role: Role
    #: Made by the process, new for each start.
    name: str
    #: Its start by Redis's clock (ms), given by the first hello and kept; a higher one has taken over. 0: none yet.
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    source: str
    sha: str


@cache
def _load(name: str) -> _Script:
    """Read a script by its name, ``family/step``, with what stands in front of it."""
    family, _, step = name.partition("/")
    lua = resources.files(__package__) / "lua"
    prologue = lua / family / f"_{family}.lua"
    files = [lua / "_common.lua", *([prologue] if prologue.is_file() else []), lua / family / f"{step}.lua"]
    source = "\n".join(file.read_text("utf-8") for file in files)
    script = _Script(source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    _sources[script.sha] = source
    return script


#: The sources of all scripts that this process has made a command of, by their digest.
_sources: Final[dict[str, str]] = {}


def command(name: str, keys: Sequence[str], args: Sequence[Arg]) -> list[Arg]:
    """The EVALSHA command of a script, for callers that pipeline several."""
    return ["EVALSHA", _load(name).sha, len(keys), *keys, *args]


def source_command(name: str, sent: Sequence[Arg]) -> list[Arg]:
    """The EVAL command for an EVALSHA that the server did not know."""
    return ["EVAL", _load(name).source, *sent[2:]]


def retried(sent: Sequence[Arg]) -> list[Arg]:
    """The EVAL command for an EVALSHA of ``command``, whichever script it runs, that the server did not know."""
    return ["EVAL", _sources[str(sent[1])], *sent[2:]]


def answer(name: str, reply: RedisReply) -> ScriptReply:
    """Turn a script's reply into an Answer; raise ServerError when it is none."""
    if isinstance(reply, ReplyError):
        raise ServerError(f"script {name} failed on the server: {reply}")
    if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
        raise ServerError(f"script {name} answered {reply!r}, which is not an answer of this protocol")
    return ScriptReply(status=reply[0].decode(), rest=tuple(reply[1:]))


def run(connection: Connection, name: str, keys: Sequence[str], args: Sequence[Arg]) -> ScriptReply:
    """Run a script; the server learns it on first use, and again after a restart or a failover."""
    return run_command(connection, name, command(name, keys, args))


def run_command(connection: Connection, name: str, sent: list[Arg]) -> ScriptReply:
    """Run what ``command`` made, as ``run`` does."""
    reply = connection.pipeline([sent])[0]
    if isinstance(reply, ReplyError) and reply.code == "NOSCRIPT":
        reply = connection.pipeline([source_command(name, sent)])[0]
    return answer(name, reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkScripts:
    """The steps of one link. Every method runs one script on the given connection and returns its Answer."""

    keys: LinkKeys
    #: PUBLISH, or SPUBLISH on a cluster.
    publish: str
    policy: RetentionPolicy

    def hello(self, connection: Connection, me: Instance) -> ScriptReply:
        """Take the side over; with an epoch, take it up again after Redis lost it. An epoch is kept for life."""
        keys = [self.keys.link, self.keys.tasks, self.keys.results, self.keys.notice]
        said = run(connection, "link/hello", keys, [me.role, me.name, me.epoch, self.policy.retention_ms, self.publish])
        if said.status == NEXT:
            said = run(
                connection,
                "link/hello",
                keys,
                [me.role, me.name, said.number(), self.policy.retention_ms, self.publish],
            )
        return said

    def bye(self, connection: Connection, me: Instance) -> ScriptReply:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.heartbeat(me.role), k.notice]
        return run(
            connection, "link/bye", keys, [me.role, me.name, me.epoch, p.settled_ms, p.retention_ms, self.publish]
        )

    def beat_command(self, me: Instance, beat: bytes, ttl_ms: int, task_id: str | None) -> list[Arg]:
        """The heartbeat as a command, so that one thread can send those of many links in one go."""
        k = self.keys
        peer: Role = "cj" if me.role == "agent" else "agent"
        keys = [k.link, k.tasks, k.results, k.heartbeat(me.role), k.heartbeat(peer)]
        if task_id:
            keys.append(k.task(task_id))
        return command("link/beat", keys, [me.role, me.name, me.epoch, beat, ttl_ms, self.policy.retention_ms])

    def assign(
        self, connection: Connection, me: Instance, entry: Entry, *, size: int, expected: str = "", lost: str = ""
    ) -> ScriptReply:
        """Put a task on the link; ``lost``: the entry in results that has, or that reports, a missing payload."""
        sent = self.assign_command(me, entry, size=size, expected=expected, lost=lost)
        return run_command(connection, "link/assign", sent)

    def assign_command(
        self, me: Instance, entry: Entry, *, size: int, expected: str = "", lost: str = "", forget: str = ""
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
        args: list[Arg] = [me.name, me.epoch, entry.task_id, entry.task_name, expected, lost, size, blob]
        args += [self.policy.retention_ms, self.policy.settled_ms, self.publish]
        return command("link/assign", keys, args + list(entry.fields()))

    def take_command(self, me: Instance, task_id: str = "") -> list[Arg]:
        """Taking the open task, or only this one, as a command to send behind the XREAD that waits for its entry."""
        return command("link/take", [self.keys.link, self.keys.task("")], [me.name, me.epoch, task_id])

    def take(self, connection: Connection, me: Instance, task_id: str = "") -> ScriptReply:
        return run(connection, "link/take", [self.keys.link, self.keys.task("")], [me.name, me.epoch, task_id])

    def refuse(self, connection: Connection, me: Instance, task_id: str, rc: str, reason: str) -> ScriptReply:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.dead]
        args: list[Arg] = [me.name, me.epoch, task_id, rc, reason, p.settled_ms, p.retention_ms]
        return run(connection, "link/refuse", keys, [*args, p.dead_entries, p.dead_value_bytes])

    def submit(self, connection: Connection, me: Instance, entry: Entry, *, submit_id: str, size: int) -> ScriptReply:
        k = self.keys
        keys = [k.link, k.tasks, k.results, k.task(entry.task_id)]
        blob = entry.blob.prefix if entry.blob else ""
        args: list[Arg] = [me.name, me.epoch, entry.task_id, submit_id, entry.rc, size, blob]
        return run(connection, "link/submit", keys, args + list(entry.fields()))

    def settle(self, connection: Connection, me: Instance, task_id: str, verdict: str, reason: str = "") -> ScriptReply:
        """Accept or reject a result; a rejected one goes to the dead-letter stream."""
        return run_command(connection, "link/settle", self._settle_command(me, task_id, verdict, reason, inline=False))

    def accept_command(self, me: Instance, task_id: str) -> list[Arg]:
        """Accepting a small result, as a command to send behind the XREAD that waits for its entry."""
        return self._settle_command(me, task_id, ACCEPTED, "", inline=True)

    def _settle_command(self, me: Instance, task_id: str, verdict: str, reason: str, *, inline: bool) -> list[Arg]:
        k, p = self.keys, self.policy
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.notice, k.dead]
        args: list[Arg] = [me.name, me.epoch, task_id, verdict, reason, p.settled_ms, self.publish]
        return command("link/settle", keys, [*args, p.retention_ms, p.dead_entries, p.dead_value_bytes, int(inline)])

    def abort(self, connection: Connection, me: Instance | None, task_id: str, reason: str) -> ScriptReply:
        """Abort as the CJ ``me``, or as an operator when there is none."""
        k = self.keys
        keys = [k.link, k.tasks, k.results, k.task(task_id), k.abort]
        name, epoch = (me.name, me.epoch) if me else ("", 0)
        return run(connection, "link/abort", keys, [name, epoch, task_id, reason, self.policy.settled_ms, self.publish])

    def bury(self, connection: Connection, me: Instance | None, stream: str, entry_id: str, reason: str) -> ScriptReply:
        """Move an entry to the dead-letter stream, as its reader ``me``, or as an operator when there is none."""
        p = self.policy
        args: list[Arg] = [entry_id, reason, p.dead_entries, p.dead_value_bytes, p.retention_ms]
        args += [me.role, me.name, me.epoch] if me else ["", "", 0]
        return run(connection, "link/bury", [stream, self.keys.dead, self.keys.link], args)

    def register(self, connection: Connection, agents: str) -> ScriptReply:
        """Note in the federation's list of agents, which has a slot of its own, that this one was seen."""
        return run(connection, "link/register", [agents], [self.keys.fqcn, self.policy.retention_ms])
