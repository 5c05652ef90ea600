"""How a Lua script is loaded, sent, and its reply read; ``link_scripts`` and its like say which scripts there are.

A script is one atomic step that answers the same when it is run twice, so a caller that lost the reply runs it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from redflare_broker.errors import ServerError
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError

#: The step took effect, now or when it was run before.
OK: Final = "OK"
#: Nothing was changed: call again with the epoch that comes with it.
NEXT: Final = "NEXT"
#: A newer instance has taken over; this one must stop.
FENCED: Final = "FENCED"
#: Redis has forgotten the caller: say hello, or join, again.
LOST: Final = "LOST"
#: The job is over; the reason comes with it.
ENDED: Final = "ENDED"
#: What the step is about is not there any more.
GONE: Final = "GONE"
#: What the step is about was never there, or has expired.
UNKNOWN: Final = "UNKNOWN"
#: It has not ended.
OPEN: Final = "OPEN"
#: Another task is open on the link.
BUSY: Final = "BUSY"
#: Another result of the task is in.
DUPLICATE: Final = "DUPLICATE"
#: The payload of this submission was lost: submit again under a new id.
RESEND: Final = "RESEND"
#: The entry is among the dead letters.
BURIED: Final = "BURIED"
#: Another job has this id.
KNOWN: Final = "KNOWN"
#: The job has none of the expected statuses, or its abort was asked for.
REFUSED: Final = "REFUSED"
#: Chunks of a payload are gone; also the return code of who cannot read one.
BLOB_MISSING: Final = "BLOB_MISSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptReply:
    """A script's reply: a status, and what comes with it."""

    status: str
    rest: tuple[RedisReply, ...] = ()

    def text(self, index: int = 0) -> str:
        """The element after the status as text; "" where there is none."""
        value = self.rest[index] if index < len(self.rest) else None
        if value is None:
            return ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def number(self, index: int = 0) -> int:
        return int(self.text(index) or 0)


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


def eval_command(sent: Sequence[Arg]) -> list[Arg]:
    """The EVAL for an EVALSHA of ``command``, for a server that does not know the script; KeyError for any other."""
    return ["EVAL", _sources[str(sent[1])], *sent[2:]]


def run_pipeline(connection: Connection, commands: Sequence[list[Arg]]) -> list[RedisReply]:
    """Run commands in one round trip, and again those whose script the server does not know."""
    replies = connection.pipeline(commands)
    for index, reply in enumerate(replies):
        if isinstance(reply, ReplyError) and reply.code == "NOSCRIPT":
            replies[index] = connection.pipeline([eval_command(commands[index])])[0]
    return replies


def parse_reply(name: str, reply: RedisReply) -> ScriptReply:
    """Read a script's reply; raise ServerError when it is none."""
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
    return parse_reply(name, run_pipeline(connection, [sent])[0])
